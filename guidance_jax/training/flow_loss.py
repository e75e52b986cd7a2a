"""Maximum likelihood of an autoregressive flow (Zhai et al. 2024, TarFlow, arXiv 2412.06329, eq. 3 and section 2.4).

    loss = mean over all numbers of  z^2 / 2 + sum of a over blocks,     z = flow(x + noise e),   e ~ N(0, I)

The noise e is not for dequantisation: it spreads the data to where sampling needs the density. `remove_noise` removes
it from samples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import normal, pytree, static
from guidance_jax.flows.flow import encode
from guidance_jax.training.losses import ConditionalLoss


@pytree
class FlowLikelihood(ConditionalLoss):
    """Train a flow by -log p(x + noise e | label), in nats per number, with conditioning dropout.

    The constant log(2 pi) / 2 per number is left out.

    Attributes:
      apply: apply(params, block, x, cond, temperature) -> (a, b), the same function as in `AutoregressiveFlow`.
      blocks: K, the number of blocks of the flow.
      prepare: f(x0) -> patches (T, C), applied to every sample; None if samples are patches already.
      noise: the standard deviation of the noise, 0.05 to 0.15 for images in [-1, 1].
      null, dropout, labelled: as in `ConditionalLoss`.
    """

    blocks: int = static(kw_only=True)
    prepare: Callable | None = static(default=None, kw_only=True)
    noise: float = static(default=0.1, kw_only=True)

    def __call__(self, params: Any, key: Any, x0: Any, label: Any) -> Any:
        noise_key, dropout_key = jax.random.split(key)
        x = x0 if self.prepare is None else self.prepare(x0)
        x = x + self.noise * normal(noise_key, x)
        z, log_det = encode(self.apply, params, self.blocks, x, self.condition(dropout_key, label))
        return 0.5 * jnp.mean(z**2) - log_det / z.size
