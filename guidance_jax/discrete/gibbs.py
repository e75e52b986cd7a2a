"""Gibbs correctors of uniform diffusion: single tokens are drawn again given all others (arXiv 2605.22765, section 4).

    x_l ~ alpha p(x0_l = v | x_t without l) + (1 - alpha) / V

is the exact conditional of the noisy distribution p_s. So p_s stays invariant if one position is chosen at random and
drawn again. A choice that depends on x does not keep p_s invariant, although such choices are published as if it did.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, KernelWrapper, Refused, add_logs, draw_token, log, need, pytree, static
from guidance_jax.discrete.process import Uniform
from guidance_jax.discrete.sites import uniformly
from guidance_jax.kernels.corrector import not_of_a_population


@pytree
class GibbsCorrector(KernelWrapper):
    """Draw `sites` tokens again given all others, `steps` times after each step of `inner`, but not at the clean level.

    With an exact model, `sites=1` and `choose=uniformly` keep the distribution of the noise level invariant. With
    guidance by exact rates they keep the guided one. Other choices and several sites at once are faster and biased.
    `steps` calls of the model per sampling step; each call starts from a new model state.

    Attributes:
      inner: a kernel of uniform diffusion, not of populations.
      model: the denoiser that gives the conditionals, guided or not.
      steps: the number of corrections per step of `inner`, at least 1.
      sites: the number of positions drawn at once, 1 to L.
      choose: the preference for positions: `uniformly`, `lowest_current`, `lowest_maximum` or `lowest_margin` of
        `discrete.sites`.
      noise: the size of the Gumbel noise added to the preference. 0 takes the most preferred positions; `uniformly`
        always has noise 1.

    Raises:
      Refused: a model of masks, images or text; a population; fewer than one step or site; more sites than tokens.
    """

    inner: Any
    model: Any
    steps: int = static(default=1)
    sites: int = static(default=1)
    choose: Callable = static(default=uniformly)
    noise: Any = 1.0

    takes = Uniform

    def check(self, levels, shape, cond):
        self.check_inner()
        not_of_a_population(self)
        need(self, self.model, Denoiser, "the model")
        if self.steps < 1 or not 1 <= self.sites <= shape[-1]:
            raise Refused(
                f"GibbsCorrector needs at least one step, on 1 to {shape[-1]} sites, got steps={self.steps}, "
                f"sites={self.sites}"
            )
        self.inner.check(levels, shape, cond)
        self.model.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        inner_key, correct_key = jax.random.split(key)
        carry = self.inner(carry, t, s, cond, inner_key)
        x = jax.lax.cond(s.sigma > 0, lambda x: self.correct(x, s, cond, correct_key), lambda x: x, carry.x)
        return carry._replace(x=x)

    def correct(self, x: Any, s: Any, cond: Any, key: Any) -> Any:
        """Return x after `steps` corrections at the level s."""

        def once(x, key):
            model_key, site_key, token_key = jax.random.split(key, 3)
            pred, _ = self.model(x, s, cond, self.model.init(x), model_key)
            size = pred.process.vocabulary
            log_p = jnp.logaddexp(log(s.alpha) + pred.log_p, log((1 - s.alpha) / size))
            log_p = jax.nn.log_softmax(add_logs(log_p, pred.tilt))
            noise = 1.0 if self.choose is uniformly else self.noise
            score = self.choose(log_p, x) + noise * jax.random.gumbel(site_key, x.shape)
            drawn = draw_token(token_key, log_p).astype(x.dtype)
            return jnp.where(jnp.argsort(jnp.argsort(-score)) < self.sites, drawn, x), None

        return jax.lax.scan(once, x, jax.random.split(key, self.steps))[0]
