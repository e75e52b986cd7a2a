"""Twisted sequential Monte Carlo, in every space: exact guidance, given enough particles.

    weight   p~(x_s) p(x_s | x_t) / (p~(x_t) q(x_s | x_t))

p is the solver's own transition, q any guided one. The twist p~ is any estimate of p(y | x_t)^scale that is exact at
the clean level (Wu et al. 2023, arXiv 2306.17775, Algorithm 1; Zhao et al. 2024, 2404.17546, for text). For images and
vectors the published proposal moves the mean by the gradient of the twist:

    q = N(mu + Sigma (alpha_t / alpha_s) grad log p~(x_t), Sigma)
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import (
    Denoiser,
    GaussianDiffusion,
    Move,
    Normal,
    Refused,
    as_guide,
    converted,
    float_type,
    need,
    pytree,
    static,
)
from guidance_jax.guidance.gradient import through
from guidance_jax.guidance.scales import strength
from guidance_jax.kernels.reverse import Step
from guidance_jax.models.domain import check_guide
from guidance_jax.particles.smc import Followable


@pytree
class Twisted(Followable, Step, Move):
    """Sample p(x) p(y | x)^scale under the solver's own chain, whatever the proposal: a move for `SMC`.

    Per particle and step it calls the model, the twist and, if there is one, the proposal once. With the gradient as
    the proposal it also takes one pull-back. For images and vectors the last step has no noise and is not guided,
    whatever the proposal. So weights, evidence and samples are right for any number of steps.

    Attributes:
      model: the unguided model; its chain is p.
      solver: a solver with a transition of positive variance: `DDPM()`, `DDIM(1.0)`, `Ancestral()`, `TauLeap()`,
        `FirstHitting()`.
      log_twist: a `Guide`, or f(x, level, cond) -> scalar in nats. It is evaluated at the clean estimate or, with
        `noisy`, at x_t, as classifiers of noisy samples are.
      scale: a number or a function of the level. Its value at the clean level sets the target; the other values decide
        only how well the particles are led there.
      proposal: a guided denoiser that particles move by. With None, images and vectors move by the gradient of the
        twist, tokens and text by the model itself.
      noisy: whether `log_twist` is evaluated at x_t; for images and vectors this saves the pull-back.

    Raises:
      Refused: a solver without a transition or without variance; a proposal of another space; a twist that returns an
        array, or does not fit the model.
    """

    model: Any
    solver: Any
    log_twist: Any = converted(as_guide)
    scale: Any = 1.0
    proposal: Any = None
    noisy: bool = static(default=False)

    weighs = True

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        check_guide(self, self.model, self.log_twist, levels, shape, cond, noisy=self.noisy)
        if self.proposal is not None:
            need(self, self.proposal, Denoiser, "the proposal")
            if self.proposal.space != self.space:
                raise Refused(
                    f"the proposal of Twisted is for {self.proposal.space}, but its model is for {self.space}"
                )
            self.proposal.check(levels, shape, cond)

    def init(self, x):
        lead = () if self.proposal is None else self.proposal.init(x)
        return self.model.init(x), lead, jnp.zeros((), float_type(x))

    def twist(self, x, level, cond):
        """Return log p~, a scalar."""
        return strength(self.scale, level, cond, off=0.0) * self.log_twist.value(x, level, cond)

    def potential(self, x, state, t, cond, key):
        own, lead, before = state
        led = gradient = None
        if self.proposal is None and isinstance(self.space, GaussianDiffusion):
            pred, gradient, value, own = self.predict_and_gradient(x, t, cond, own, key)
        else:
            pred, own = self.model(x, t, cond, own, key)
            value = self.twist(x if self.noisy else pred.x0, t, cond)
        if self.proposal is not None:
            led, lead = self.proposal(x, t, cond, lead, key)
        return (pred, led, gradient, (own, lead, value)), value - before

    def predict_and_gradient(self, x, t, cond, state, key):
        """Return (prediction, gradient of the twist in x_t, twist, new state)."""
        if self.noisy:
            pred, state = self.model(x, t, cond, state, key)
            value, gradient = jax.value_and_grad(self.twist)(x, t, cond)
            return pred, gradient, value, state
        pred, pull, state = through(self.model, x, t, cond, state, key)
        value, gradient = jax.value_and_grad(self.twist)(pred.x0, t, cond)
        return pred, pull(gradient), value, state

    def chains(self, found, t, s):
        """Return the distributions of the chain's own step and of the proposed one."""
        pred, led, gradient, _ = found
        p = self.solver.transition(pred, t, s)
        q = p if led is None else self.solver.transition(led, t, s)
        if isinstance(q, Normal):  # a step without noise is the chain's own: no weight could correct another
            q = q.shift(jnp.where(s.sigma == 0, p.mean - q.mean, 0))
        if gradient is not None:
            q = p.shift(jnp.where(p.clean | (s.sigma == 0), 0, p.std**2) * t.alpha / s.alpha * gradient)
        return p, q

    def propose(self, found, t, s, cond, key):
        p, q = self.chains(found, t, s)
        x = q.draw(key)
        return x, found[-1], p.log_prob(x) - q.log_prob(x)

    def follow(self, found, x, t, s, cond):
        state = found[-1]
        p, q = (chain.log_prob(x) for chain in self.chains(found, t, s))
        return state, p - q, p - state[2]

    def final_potential(self, x, state, level, cond, key):
        return self.twist(x, level, cond) - state[2]
