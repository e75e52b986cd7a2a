"""Model guidance (Tang et al. 2025, arXiv 2502.12154): CFG learned into the model, by ordinary training.

    target' = target + (1 - 1 / scale) sg(output(c) - output(null))

Where nothing changes any more D = E[x0 | x_t, c] + (1 - 1 / scale) (D - D_u), so that
D = D_u + scale (E[x0 | x_t, c] - D_u): the model alone, at one call a step, is what CFG of that scale is at two. The
paper writes w for 1 - 1 / scale.
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, pytree, static
from guidance_jax.training.losses import Denoising


@pytree
class ModelGuidance(Denoising):
    """`Denoising` whose target is moved away from the network's own unconditional output. Two calls a step.

    Attributes:
      scale: of the CFG that it becomes, 1 or more; 1 is `Denoising`.
      apply, schedule, parameterization, null, dropout, labelled, levels: as there; `null` is needed.

    Raises:
      Refused: no null label; a scale below 1.
    """

    scale: float = static(default=1.5, kw_only=True)

    def __post_init__(self):
        check_learned(self, self.scale)

    def residual(self, ask, cond, target, key):
        output = ask(cond)
        away = jax.lax.stop_gradient(output - ask(jnp.full_like(cond, self.null)))
        return output - (target + jnp.where(cond == self.null, 0, 1 - 1 / self.scale) * away)


def check_learned(loss: Denoising, most: float) -> None:
    """Raise unless there is a null label to be guided away from, and a scale that can be learned."""
    name = type(loss).__name__
    if loss.null is None or not loss.labelled:
        raise Refused(f"{name} needs the null label, got null={loss.null}; write null=num_classes")
    if not most >= 1:
        raise Refused(f"{name} learns scales from 1 on, got {most}")
