"""DRaFT-K (Clark et al. 2024, arXiv 2309.17400, section 4) and AlignProp (2310.03739): the reward, through the sampler.

    loss = -scale r(x_0),   differentiated through the last K steps of the chain

Nothing holds the samples near the model: it maximises r, and does not sample p(x) exp(r(x)).
"""

import jax

from guidance_jax.core import Refused, pytree, static
from guidance_jax.training.chains import Rewarded


@pytree
class DRaFT(Rewarded):
    """Fields as in `Rewarded`; `last`: K, 1 to the number of steps, which is AlignProp without truncation.

    With `remat` the steps are computed again in the backward pass: memory for the samples of K levels and one call of
    the network, in the place of K calls.
    """

    last: int = static(default=1)
    remat: bool = static(default=True)

    def __call__(self, params, key, x0, label):
        model, n = self.tuned(params), len(self.levels.t) - 1
        if not 1 <= self.last <= n:
            raise Refused(f"DRaFT differentiates through 1 to {n} steps, got last={self.last}")
        first, rest = jax.random.split(key)
        keys, (t, s) = jax.random.split(rest, n), self.steps

        def step(model, x, inputs):
            return self.step(model, x, inputs, label), None

        def part(a, b):
            return t.at(slice(a, b)), s.at(slice(a, b)), keys[a:b]

        cut = n - self.last
        x, _ = jax.lax.scan(lambda x, i: step(jax.lax.stop_gradient(model), x, i), self.start(first, x0), part(0, cut))
        body = jax.checkpoint(step) if self.remat else step
        x, _ = jax.lax.scan(lambda x, i: body(model, x, i), jax.lax.stop_gradient(x), part(cut, n))
        return -self.value(x, label)
