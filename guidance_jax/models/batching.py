"""Networks written for batches, (params, x[B], t[B], cond[B]), beside those written for one sample.

A batched network is given a batch of one, and `vmap` over the samples joins those batches again: its convolutions and
matrix products see all samples at once, as if called by hand, and no sample can see another.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, first_line


def with_axis(tree: Any) -> Any:
    """Every array with a batch axis of one in front."""
    return jax.tree.map(lambda a: jnp.asarray(a)[None], tree)


def called(apply: Callable, batched: bool | None, params: Any, *inputs: Any, **options: Any) -> Any:
    """What the network says of one sample, whichever way it is written.

    Args:
      apply: apply(params, x, t, ...) -> output.
      batched: whether `apply` takes a batch axis in front of every input and gives one back. None: it does not, or it
        makes no difference.
      params, inputs, options: of one sample; `options` are passed as they are.

    Raises:
      Refused: a network that is evidently written the other way.
    """
    if batched is not False:
        given = (params, inputs, options)
        shapes, tree = jax.tree.flatten(
            jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), given)
        )
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
            f"the network does not take a sample of shape {shape} with batched={batched} ({first_line(error)}); is it "
            "written for batches (batched=True), or for another order of axes?"
        ) from error


@functools.lru_cache(maxsize=64)
def check_form(apply: Callable, batched: bool | None, tree: Any, shapes: tuple) -> None:
    """Raise `Refused` if `apply` cannot be traced as declared but can the other way, or if it mixes up the two.

    Tracing costs no arithmetic. A network that can be traced both ways is run both ways, once, with random parameters
    on one random sample, on the host.
    """
    params, inputs, options = jax.tree.unflatten(tree, shapes)

    def traced(axes: tuple[int, ...]) -> Any:
        front = jax.tree.map(lambda a: jax.ShapeDtypeStruct((*axes, *a.shape), a.dtype), inputs)
        try:
            return jax.eval_shape(lambda p, i, o: apply(p, *i, **o), params, front, options)
        except Refused:
            raise
        except Exception as error:  # whatever a foreign network raises when its inputs have another rank
            return error

    def fails(found: Any) -> bool:
        return isinstance(found, Exception)

    try:
        two = traced((2,))
    except Refused as error:
        two = error
    sensible = not fails(two) and all(a.shape[:1] == (2,) for a in jax.tree.leaves(two))
    if batched:
        if fails(two) and not fails(traced(())):
            raise Refused(
                f"the network is written for one sample, not for batches ({first_line(two)}); write batched=False"
            )
        if not fails(two) and not sensible:
            got = [a.shape for a in jax.tree.leaves(two)]
            raise Refused(f"batched=True, but of two samples the network made {got}; write batched=False")
    one = traced(())
    if not fails(one) and sensible:  # what it makes of two has an axis more than what it makes of one
        pairs = zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True)
        sensible = all(a.shape == (2, *b.shape) for a, b in pairs)
    if fails(one):
        if not batched and sensible:
            raise Refused(f"the network is written for batches ({first_line(one)} for one sample); write batched=True")
        return  # the call itself will say what is wrong
    keys = [a for a in shapes if jnp.issubdtype(a.dtype, jax.dtypes.extended)]  # nothing random can stand for those
    if sensible and inputs and not keys:
        compare(apply, batched, params, inputs, options)


def compare(apply: Callable, batched: bool | None, params: Any, inputs: Any, options: Any) -> None:
    """Run a network that can be traced both ways; raise `Refused` if it matters and contradicts what was declared."""
    rng = np.random.default_rng(0)

    def numbers(low: float, high: float) -> Callable[[Any], Any]:
        def one(a):
            kind = np.dtype(a.dtype) if not jnp.issubdtype(a.dtype, jnp.floating) else None
            return np.zeros(a.shape, kind) if kind is not None else rng.uniform(low, high, a.shape).astype(a.dtype)

        return one

    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # a process that was given an accelerator alone
        host = jax.local_devices()[0]
    with jax.ensure_compile_time_eval(), jax.default_device(host):
        params = jax.tree.map(numbers(0.02, 0.12), params)
        first, second = (jax.tree.map(numbers(-1.0, 1.0), inputs) for _ in range(2))
        options = jax.tree.map(numbers(0.0, 1.0), options)
        run = jax.jit(lambda i: apply(params, *i, **options))
        single = jax.tree.map(np.asarray, run(first))
        pair = jax.tree.map(lambda *rows: np.stack(rows), first, second)
        both = jax.tree.map(lambda a: np.asarray(a)[0], run(pair))
        alone = jax.tree.map(lambda a: np.asarray(a)[0], run(jax.tree.map(lambda a: np.asarray(a)[None], first)))
    if batched and difference(both, alone) > 1e-3:
        raise Refused(
            f"batched=True, but what the network says of one sample changes by {difference(both, alone):.0%} with "
            "another beside it; write batched=False, or switch its training behaviour off"
        )
    if batched is None and difference(single, alone) > 1e-3:
        raise Refused(
            f"the network takes one sample and a batch of one, and they differ by {difference(single, alone):.0%}: a "
            "normalisation that takes the first axis for the batch, most likely; write batched=True, or batched=False"
        )


def difference(a: Any, b: Any) -> float:
    """The largest difference relative to the largest entry; 0 where the numbers say nothing."""
    pairs = [
        (np.asarray(x, np.float64), np.asarray(y, np.float64))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    found = [
        float(np.max(np.abs(x - y)) / max(np.max(np.abs(y)), 1e-30)) if x.shape == y.shape else 1.0 for x, y in pairs
    ]
    return max((f for f in found if np.isfinite(f)), default=0.0)
