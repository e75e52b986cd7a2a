"""A cost ledger: how often a kernel really calls its networks, and how often it differentiates them.

The calls are counted while one sample runs. So skipped branches cost nothing, and every stage of a solver is counted.
"""

import dataclasses
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, pytree
from guidance_jax.models.batching import call_network
from guidance_jax.models.network import Function, Parametrized
from guidance_jax.sample import sample

COUNTED = (Parametrized, Function)


class Ledger(NamedTuple):
    """The cost of one sample, by the name of each network.

    Attributes:
      calls: the number of evaluations of each network.
      gradients: the number of pull-backs through each network (gradients in the input).
    """

    calls: dict[str, int]
    gradients: dict[str, int]

    def __str__(self):
        return ", ".join(
            f"{name}: {n} calls" + (f", {self.gradients[name]} gradients" if name in self.gradients else "")
            for name, n in self.calls.items()
        )


def ledger(
    kernel: Any, levels: Level, shape: tuple[int, ...], cond: Any = None, names: dict[str, Any] | None = None
) -> Ledger:
    """Run one sample (or one population, if its size leads in `shape`) and count the calls of its networks.

    Args:
      kernel, levels, shape: as in `generate`.
      cond: the condition of one sample.
      names: `{"weak": network, ...}`, to tell networks apart; others are named by their type.

    Returns:
      The counts by name, of networks of images, tokens and text. Exact models and plain functions of x_t are not
      counted; `Function(f)` is.
    """
    calls: Counter[str] = Counter()
    gradients: Counter[str] = Counter()
    known = {id(network): name for name, network in (names or {}).items()}

    def counted(node: Any) -> Any:
        if not isinstance(node, COUNTED):
            return node
        name = known.get(id(node), type(node).__name__)

        def tick(counter):
            # the argument is batched under vmap, so the callback runs once per evaluation
            return lambda x: jax.debug.callback(lambda _: counter.update([name]), x.ravel()[0])

        @jax.custom_vjp
        def mark(x):
            tick(calls)(x)
            return x

        def backward(_, g):
            tick(gradients)(g)
            return (g,)

        mark.defvjp(lambda x: (mark(x), None), backward)

        def marked(f):
            def call(*args, **options):
                # on the output, which is batched where one call answers several conditions
                leaves, structure = jax.tree.flatten(f(*args, **options))
                at = next(i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating))
                leaves[at] = mark(leaves[at])
                return jax.tree.unflatten(structure, leaves)

            return call

        names = ("f",) if isinstance(node, Function) else node.functions
        fields = {name: vars(node)[name] for name in names}
        part: Any = node
        if not fields:  # its function is its own call, which is a method: counted by a subclass
            kind: Any = pytree(type(name, (type(node),), {"__call__": marked(type(node).__call__)}))
            return kind(**{f.name: vars(node)[f.name] for f in dataclasses.fields(part)})
        if isinstance(node, Parametrized) and node.batched:  # counted where its output is one sample's
            return dataclasses.replace(
                part, apply=marked(partial(call_network, part.apply, node.batched)), batched=False
            )
        return dataclasses.replace(part, **{k: marked(f) for k, f in fields.items() if f is not None})

    kernel = jax.tree.map(counted, kernel, is_leaf=lambda node: isinstance(node, COUNTED))
    start_key, step_key = jax.random.split(jax.random.key(0))
    run = jax.jit(lambda cond: sample(step_key, kernel, levels, kernel.start(start_key, levels, shape), cond).x)
    jax.block_until_ready(run(None if cond is None else jax.tree.map(np.asarray, cond)))
    jax.effects_barrier()
    return Ledger(dict(calls), dict(gradients))
