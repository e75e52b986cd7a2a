"""Control of Diffusion-LM (Li et al. 2022, arXiv 2205.14217, section 5.1): classifier steps after each transition.

    x_s ~ p(x_s | x_t), then a few ascent steps on   scale log p(y | x_s) - fluency |x_s - mu|^2 / (2 std^2)

Their code makes a new Adagrad for every inner step, which turns the gradient into its sign; here its memory lasts for
the inner steps of one transition.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import function, pytree, static
from guidance_jax.domain import check_pair
from guidance_jax.guidance.base import active, strength, when
from guidance_jax.guidance.classifier import log_prob
from guidance_jax.guidance.gradient import scalar
from guidance_jax.kernels.reverse import Reverse, needs_variance


@pytree
class DiffusionLM:
    """A kernel: one step of `solver` on `model`, then `steps` steps of Adagrad. Scale 0 is `Reverse(model, solver)`.

    For embeddings of tokens, but any Gaussian diffusion will do. One call of the model and `steps` gradients of the
    classifier (at the level reached) a step; the last transition, which has no variance, is not followed by any.

    Attributes:
      classifier: `log_prob(x, level, label)` of noisy samples, or a function with those arguments.
      scale: a number, `Window`, or a function of the level.
      fluency: weight of staying near the mean of the transition, in its standard deviations.

    Raises:
      ValueError: a solver without a Gaussian kernel of positive variance; a classifier that does not fit the model.
    """

    model: Any
    solver: Any
    classifier: Any
    scale: Any
    fluency: Any = 0.01
    rate: Any = 0.1
    steps: int = static(default=3)

    def __post_init__(self):
        object.__setattr__(self, "classifier", function(self.classifier))

    def init(self, x):
        return Reverse(self.model, self.solver).init(x)

    def check(self, levels, shape, cond):
        needs_variance(self, self.solver)
        check_pair(self.model, self.classifier, levels, shape, cond)
        Reverse(self.model, self.solver).check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        first, second = jax.random.split(key)
        pred, guide = self.model(carry.x, t, cond, carry.guide, first)
        mean, std = self.solver.kernel(pred, t, s)
        std = jnp.where(s.sigma > 0, std, 0)
        x = mean + std * jax.random.normal(second, mean.shape, mean.dtype)
        w, on = strength(self.scale, s, cond, off=0.0), active(self.scale, s)
        wanted = (w != 0 if on is None else on) & (s.sigma > 0)
        x = when(wanted, lambda: self.controlled(x, mean, std, w, s, cond), lambda: x)
        return carry._replace(x=x, guide=guide)

    def controlled(self, x, mean, std, w, level, cond):
        """x after the ascent."""

        def objective(x):
            value = scalar(log_prob(self.classifier, x, level, cond), self.classifier)
            return w * value - self.fluency / 2 * jnp.sum(((x - mean) / std) ** 2)

        def step(carry, _):
            x, squares = carry
            g = jax.grad(objective)(x)
            squares = squares + g**2
            return (x + self.rate * g * jax.lax.rsqrt(squares + 1e-20), squares), None

        (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), None, length=self.steps)
        return x
