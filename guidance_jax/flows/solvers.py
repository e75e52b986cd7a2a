"""Solvers that write a flow's patches: from the starting noise or, for one block, as draws with a density."""

import jax.numpy as jnp

from guidance_jax.core import Normal, Solver, Stochastic, pytree
from guidance_jax.flows.patches import NextPatch, OneBlock, Patches


@pytree
class PatchByPatch(Solver):
    """Write the next patch from the starting noise z: x_{i+1} = b + exp(a) z_{i+1}, the inverse of the flow.

    It is deterministic, so that `search.walk` and `search.climb` can search over the noise. Its state is the sum of a,
    the log-determinant of the steps so far; `importance` reads it.
    """

    takes = Patches

    def init(self, x):
        return jnp.zeros((), x.dtype)

    def step(self, pred, t, s, evaluate, state, key):
        patch = pred.mean + jnp.exp(pred.log_std) * pred.x[pred.index]
        return pred.x.at[pred.index].set(patch.astype(pred.x.dtype)), state + jnp.sum(pred.log_std)


@pytree
class DrawPatch(PatchByPatch, Stochastic):
    """Write the next patch of a flow of one block as a draw from N(b, exp(a)^2), which particle methods can weigh.

    `Reverse` takes that draw from the starting noise, as `PatchByPatch` does.
    """

    takes = OneBlock

    def transition(self, pred, t, s):
        """Return N(b, exp(a)^2) of the next patch."""
        return NextPatch(Normal(pred.mean, jnp.exp(pred.log_std)), pred.x, pred.index)
