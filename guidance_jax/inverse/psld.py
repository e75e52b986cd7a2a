"""Posterior sampling of latents, PSLD (Rout et al. 2023, arXiv 2307.00619, Algorithm 2).

    z_s = solver(z_t) - scale grad_{z_t} [ |y - A Dec(z0)| + glue |Enc(A^+ y + (I - A^+ A) Dec(z0)) - z0| ]

The second term is 0 if the estimate is a fixed point of decoding, fitting and encoding. The authors' code has A^T in
place of A^+, which is the same where A A^T = I. It also encodes with noise, and adds noise to A Dec(z0) at every step.
"""

from typing import Any

import jax

from guidance_jax.core import converted, function, norm, pytree
from guidance_jax.inverse.dps import DPS
from guidance_jax.models.adapters import known_part
from guidance_jax.operators.base import check_measurement, check_operator, residual_of


@pytree
class PSLD(DPS):
    """Take steps as `DPS` does, for a diffusion model of latents and a measurement of decoded samples.

    scale 0 is `Reverse`; glue 0 is `DPS` through the decoder. Each step costs one call of the denoiser, one of the
    decoder and one of the encoder, and their pull-backs. PSLD does not sample the posterior.

    Attributes:
      model, solver, observed: as in `DPS`.
      operator: A, linear, an `Operator` or any linear function of one decoded sample.
      scale: the factor of the gradient, in units of the latent: a number, `Window`, or a function of the level.
      decode: a function of one latent, such as an autoencoder's decoder.
      encode: a function of one decoded sample, without noise; of a random encoder, its mean.
      glue: the weight of the second term relative to the first; .1 in the paper.

    Raises:
      Refused: what `DPS` refuses; an operator that is not linear.
    """

    decode: Any = converted(function, kw_only=True)
    encode: Any = converted(function, kw_only=True)
    glue: Any = 0.1

    def check(self, levels, shape, cond):
        made = jax.eval_shape(self.decode, jax.ShapeDtypeStruct(shape, "float32"))
        check_operator(self, self.operator, made.shape, linear=True)
        check_measurement(self, known_part(cond, self.observed))
        self.check_parts(levels, shape, cond)
        self.model.check(levels, shape, cond)

    def length(self, x0, y):
        decoded = self.decode(x0)
        residual = residual_of(self.operator, decoded, y)
        fitted = decoded + self.operator.pinv(residual, decoded)
        return norm(residual) + self.glue * norm(self.encode(fitted) - x0)
