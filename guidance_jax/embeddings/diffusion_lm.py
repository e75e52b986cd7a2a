"""Control of Diffusion-LM (Li et al. 2022, arXiv 2205.14217, section 5.1): classifier steps after each transition.

    x_s ~ p(x_s | x_t), then a few ascent steps on   scale log p(y | x_s) - fluency |x_s - mu|^2 / (2 std^2)

The authors' code makes a new Adagrad for every inner step, which turns the gradient into its sign. Here the state of
Adagrad lasts for all inner steps of one transition.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import GaussianDiffusion, Kernel, as_guide, converted, pytree, static
from guidance_jax.guidance.scales import active, strength, when
from guidance_jax.kernels.reverse import Carry, Step
from guidance_jax.models.domain import check_guide


@pytree
class DiffusionLM(Step, Kernel):
    """A kernel that follows each step of `solver` by `steps` Adagrad steps. Scale 0 is `Reverse(model, solver)`.

    It is meant for token embeddings, and works for any Gaussian diffusion. One call of the model and `steps` gradients
    of the classifier, at the level s that the transition reached, per sampling step. No Adagrad steps follow the last
    transition, which has no variance.

    Attributes:
      model: a denoiser of embeddings.
      solver: a solver whose transition has a positive variance.
      classifier: a `Guide` of noisy samples, or f(x, level, label) -> log p.
      scale: a number, `Window`, or a function of the level.
      fluency: the weight of the penalty on the distance from the mean of the transition, in its standard deviations.
      rate: the learning rate of Adagrad, in units of x.
      steps: the number of Adagrad steps per transition.

    Raises:
      Refused: a solver without a transition of positive variance; tokens; a classifier that does not fit the model.
    """

    model: Any
    solver: Any
    classifier: Any = converted(as_guide)
    scale: Any
    fluency: Any = 0.01
    rate: Any = 0.1
    steps: int = static(default=3)

    takes = GaussianDiffusion
    weighs = True

    def init(self, x):
        return Carry(x, self.model.init(x), self.solver.init(x))

    def check(self, levels, shape, cond):
        self.check_parts(levels, shape, cond)
        check_guide(self, self.model, self.classifier, levels, shape, cond, noisy=True)
        self.model.check(levels, shape, cond)

    def __call__(self, carry, t, s, cond, key):
        model_key, noise_key = jax.random.split(key)
        pred, state = self.model(carry.x, t, cond, carry.model_state, model_key)
        q = self.solver.transition(pred, t, s)
        x = q.draw(noise_key)
        w, on = strength(self.scale, s, cond, off=0.0), active(self.scale, s)
        wanted = (w != 0 if on is None else on) & (s.sigma > 0)
        x = when(wanted, lambda: self.control(x, q.mean, q.std, w, s, cond), lambda: x)
        return carry._replace(x=x, model_state=state)

    def control(self, x, mean, std, w, level, cond):
        """Return x after the ascent."""

        def objective(x):
            value = self.classifier.value(x, level, cond)
            return w * value - self.fluency / 2 * jnp.sum(((x - mean) / std) ** 2)

        def step(carry, _):
            x, squares = carry
            g = jax.grad(objective)(x)
            squares = squares + g**2
            return (x + self.rate * g * jax.lax.rsqrt(squares + 1e-20), squares), None

        (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), None, length=self.steps)
        return x
