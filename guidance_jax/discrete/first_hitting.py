"""First-hitting sampling (Zheng et al. 2024, arXiv 2409.02908, section 4.1): one token at a time, exact in L steps.

    position and token are drawn together, with probability R(x -> x') / sum R

the jump chain of the reverse process. Masked models do not depend on time, so nothing is lost by leaving it out, and no
two tokens are ever decided without knowing of each other.
"""

import jax
import jax.numpy as jnp

from guidance_jax.core import pytree
from guidance_jax.discrete.ancestral import Ancestral


@pytree
class FirstHitting(Ancestral):
    """Exact for masks, guidance included: at scale 1 with the exact predictor, samples of p(x | y). Takes L steps.

    Raises:
      ValueError: as `Ancestral`; fewer steps than tokens; a process without masks.
    """

    def check(self, levels, shape, cond):
        if len(levels.t) <= shape[-1]:
            raise ValueError(
                f"FirstHitting decides one token a step: {shape[-1]} tokens take as many steps, got "
                f"{len(levels.t) - 1}; "
                f"write levels({shape[-1]})"
            )

    def kernel(self, pred, t, s):
        """log q of every jump, (1, L V)."""
        if not hasattr(pred.process, "mask"):
            raise ValueError(f"FirstHitting needs masks, got {pred.process}; use TauLeap()")
        pred = self.truncated(pred)
        rates = self.log_rates(pred, t).ravel()
        return jax.nn.log_softmax(jnp.where(jnp.any(rates > -jnp.inf), rates, 0))[None]

    def place(self, pred, drawn, s):
        site, token = jnp.divmod(drawn[0], pred.log_p.shape[1])
        free = pred.process.free(pred.x)
        return jnp.where(jnp.any(free), pred.x.at[site].set(token.astype(pred.x.dtype)), pred.x)
