"""Calls of networks that are written for batches, (params, x[B], t[B], cond[B]), or for one sample.

A batched network gets batches of one, which `vmap` over the samples joins again. Its convolutions and matrix products
process all samples at once, and no sample can see another.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, first_line


def with_axis(tree: Any) -> Any:
    """Return `tree` with a batch axis of length one in front of every array."""
    return jax.tree.map(lambda a: jnp.asarray(a)[None], tree)


def require_form(owner: Any, batched: Any) -> None:
    """Raise `Refused` unless `batched` is True or False. A network does not tell which, so there is no default."""
    if not isinstance(batched, bool):
        name = type(owner).__name__
        raise Refused(
            f"{name} needs to know whether its function takes batches; write batched=True, or batched=False for one "
            "sample"
        )


def call_network(apply: Callable, batched: bool, params: Any, *inputs: Any, **options: Any) -> Any:
    """Return the output of a network for one sample.

    Args:
      apply: the network, apply(params, x, t, ...) -> output.
      batched: whether `apply` takes a batch axis in front of every input and returns one.
      params, inputs, options: the network's arguments for one sample. `options` get no batch axis.

    Raises:
      Refused: a network that is evidently written the other way.
    """
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), (params, inputs, options))
    shapes, tree = jax.tree.flatten(given)
    check_form(apply, batched, tree, tuple(shapes))
    try:
        if not batched:
            return apply(params, *inputs, **options)
        return jax.tree.map(lambda a: a[0], apply(params, *with_axis(inputs), **options))
    except Refused:
        raise
    except Exception as error:  # whatever a foreign network raises
        shape = jnp.shape(jax.tree.leaves(inputs)[0]) if jax.tree.leaves(inputs) else ()
        raise Refused(
            f"the network does not accept a sample of shape {shape} with batched={batched} ({first_line(error)}); "
            "write batched=True if it takes batches, or check the order of the axes"
        ) from error


@functools.lru_cache(maxsize=64)
def check_form(apply: Callable, batched: bool, tree: Any, shapes: tuple) -> None:
    """Raise `Refused` if a batched `apply` does not return two outputs for two samples. It is traced, not run."""
    if not batched:
        return
    params, inputs, options = jax.tree.unflatten(tree, shapes)
    two = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape), a.dtype), inputs)
    try:
        outputs = jax.tree.leaves(jax.eval_shape(lambda p, i, o: apply(p, *i, **o), params, two, options))
    except Refused:
        raise
    except Exception as error:  # whatever a foreign network raises when its inputs have another rank
        reason = f"batched=True, but the network does not accept a batch of two samples ({first_line(error)})"
        raise Refused(f"{reason}; write batched=False if it takes one sample") from error
    if not all(a.shape[:1] == (2,) for a in outputs):
        got = [a.shape for a in outputs]
        raise Refused(f"batched=True, but for two samples the network returned shapes {got}; write batched=False")
