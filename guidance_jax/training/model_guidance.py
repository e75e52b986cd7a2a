"""Model guidance (Tang et al. 2025, arXiv 2502.12154): the model itself learns to predict what CFG predicts.

    target' = target + (1 - 1 / scale) sg(output(c) - output(null))

sg is the stop-gradient. At the fixed point D = E[x0 | x_t, c] + (1 - 1 / scale) (D - D_u), so that
D = D_u + scale (E[x0 | x_t, c] - D_u). One network call then gives the prediction for which CFG at that scale
needs two. The paper writes w for 1 - 1 / scale.
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused, pytree, static
from guidance_jax.training.losses import Denoising


@pytree
class ModelGuidance(Denoising):
    """Train as `Denoising` does, on a target that is moved away from the network's own unconditional output.

    A training step calls the network twice for each sample.

    Attributes:
      scale: the scale of the CFG that the network learns, 1 or more; 1 is plain `Denoising`.
      apply, schedule, parameterization, dropout, levels: as in `Denoising`.
      null: the null label, required here.
      labelled: must be True here: whether the network gets the label.

    Raises:
      Refused: no null label, or `labelled=False`; a scale below 1.
    """

    scale: float = static(default=1.5, kw_only=True)

    def __post_init__(self):
        check_learned(self, self.scale)

    def residual(self, ask, cond, target, key):
        output = ask(cond)
        away = jax.lax.stop_gradient(output - ask(jnp.full_like(cond, self.null)))
        return output - (target + jnp.where(cond == self.null, 0, 1 - 1 / self.scale) * away)


def check_learned(loss: Denoising, most: float) -> None:
    """Raise unless `loss` has a null label and passes labels on, and the largest scale `most` is at least 1."""
    name = type(loss).__name__
    if loss.null is None or not loss.labelled:
        raise Refused(f"{name} needs the null label, got null={loss.null}; write null=num_classes")
    if not most >= 1:
        raise Refused(f"{name} learns scales from 1 on, got {most}")
