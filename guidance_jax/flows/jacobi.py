"""Gauss-Seidel-Jacobi decoding of a flow (Liu & Qin 2025, arXiv 2505.12849): all patches of a segment at once.

    x^(m+1) = b(x^(m)) + exp(a(x^(m))) z     within a segment, repeated; segments one after the other

After as many repetitions as a segment has patches the result is that of sequential decoding; fewer are
approximate.
"""

from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.flows.flow import AutoregressiveFlow, shift
from guidance_jax.flows.patches import PatchPrediction
from guidance_jax.guidance.base import complete_null
from guidance_jax.models.domain import unless_unknown


def decode(
    flow: AutoregressiveFlow,
    z: Any,
    cond: Any = None,
    *,
    repeats: int,
    segments: int = 1,
    null: Any = None,
    scale: Any = 1.0,
) -> Any:
    """Return x (T, C) of one noise z (T, C), by `repeats` parallel calls for every segment of every block.

    Args:
      flow: the flow.
      z: the noise, (T, C).
      cond: the label, or None.
      repeats: the number of calls per segment; T / segments of them are exact, fewer are approximate.
      segments: the number of equal parts of the sequence, which are decoded one after the other.
      null: the null condition, for `CFG` at `scale`; None for the flow without guidance.
      scale: the scale of that guidance, a number.

    Raises:
      Refused: no repeat; segments that do not divide the patches; no label where the flow needs one.
    """
    patches = len(z)
    if repeats < 1 or segments < 1 or patches % segments:
        raise Refused(
            f"decode needs repeats >= 1 and a number of segments that divides the {patches} patches, got "
            f"repeats={repeats}, segments={segments}"
        )
    size, own = patches // segments, flow.label(cond)
    other = None if null is None else flow.label(complete_null(null, cond))

    def parameters(block, x, label):
        rows = flow.apply(flow.params, block, x, label, flow.temperature)
        return tuple(shift(c) for c in unless_unknown(flow.domain, label, tuple(rows)))

    def guide(block, x):
        a, b = parameters(block, x, own)
        if null is None:
            return a, b
        weak_a, weak_b = parameters(block, x, other)
        weak = PatchPrediction(x, weak_b, weak_a, 0, flow.space)
        pred = PatchPrediction(x, b, a, 0, flow.space).contrast(weak, scale)
        return pred.log_std, pred.mean

    def decode_block(block, z):
        rows = jnp.arange(patches)[:, None]

        def again(m, x):
            segment = m // repeats
            a, b = guide(block, x)
            inside = (rows >= segment * size) & (rows < (segment + 1) * size)
            return jnp.where(inside, b + jnp.exp(a) * z, x)

        return jax.lax.fori_loop(0, segments * repeats, again, z)

    for block in reversed(range(flow.blocks)):
        z = decode_block(block, z[::-1])[::-1] if block % 2 else decode_block(block, z)
    return z
