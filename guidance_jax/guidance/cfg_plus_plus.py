"""CFG++ (Chung et al. 2024, arXiv 2406.08070, Algorithm 2): guided signal, unconditional noise.

x0 = D_u + scale (D_c - D_u),   eps = eps_u,   scale in [0, 1]
"""

from guidance_jax.core import GaussianDiffusion, pytree
from guidance_jax.guidance.conditions import TwoConditions


@pytree
class CFGPlusPlus(TwoConditions):
    """Move the clean estimate from D_u towards D_c while the noise stays unconditional. scale 0 is D_u.

    So alpha x0 + sigma eps is no longer x. With DDIM this is the published sampler; every other solver uses the same x0
    and eps. Each step makes one network call with both conditions.

    Attributes:
      inner, null, in_turn: as in `TwoConditions`.
      scale: from 0 (the unconditional model) to 1.
    """

    takes = GaussianDiffusion

    def rule(self, c, u, w, x, level, memory):
        return u.shift(w * (c.x0 - u.x0)), memory
