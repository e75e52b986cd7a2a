"""How a flow writes its patches: by the noise that it started from; of one block, also as draws that can be weighed."""

import jax.numpy as jnp

from guidance_jax.core import Normal, Solver, Stochastic, pytree
from guidance_jax.flows.patches import NextPatch, OneBlock, Patches


@pytree
class PatchByPatch(Solver):
    """x_{i+1} = b + exp(a) z_{i+1}, with z the noise that sampling started from: the inverse of the flow.

    No chance of its own, so that `search.walk` and `search.climb` search over the noise. Its history is the sum of a,
    the log-determinant of all steps; `importance` reads it.
    """

    takes = Patches

    def init(self, x):
        return jnp.zeros((), x.dtype)

    def step(self, pred, t, s, evaluate, state, key):
        patch = pred.mean + jnp.exp(pred.log_std) * pred.x[pred.index]
        return pred.x.at[pred.index].set(patch.astype(pred.x.dtype)), state + jnp.sum(pred.log_std)


@pytree
class DrawPatch(PatchByPatch, Stochastic):
    """The same of flows of one block, whose step is a draw from N(b, exp(a)^2): the transition of particle methods.

    `Reverse` takes that draw from the noise that sampling started from, as `PatchByPatch` does.
    """

    takes = OneBlock

    def transition(self, pred, t, s):
        """N(b, exp(a)^2) of the next patch."""
        return NextPatch(Normal(pred.mean, jnp.exp(pred.log_std)), pred.x, pred.index)
