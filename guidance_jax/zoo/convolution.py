"""A 2-D convolution whose input gradient stays fast inside `lax.scan` on a CPU.

JAX's own transpose of `conv_general_dilated` leaves the kernel with labels `01oi` in the loop body. Outside a loop
XLA's CPU compiler rewrites them to `01io` and calls its fast convolution; inside one it falls back to a naive loop, 5
to 40 times slower (`python -m benchmarks conv_in_scan`). Here the transpose in x is written with the kernel flipped and
swapped first, so the labels are always canonical. As a primitive (rather than `custom_vjp`) it keeps forward mode,
second derivatives, and the batched gradient of shared weights. On GPU and TPU it compiles to the same convolution as
JAX's own.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

LABELS = ("NHWC", "HWIO", "NHWC")


def _conv(x: Any, w: Any, *, stride: int, pads: tuple) -> Any:
    return jax.lax.conv_general_dilated(x, w, (stride, stride), pads, dimension_numbers=LABELS)


_conv_p = Primitive("conv2d_in_scan")
_conv_p.def_impl(jax.jit(_conv, static_argnames=("stride", "pads")))
mlir.register_lowering(_conv_p, mlir.lower_fun(_conv, multiple_results=False))


@_conv_p.def_abstract_eval
def _shape(x, w, *, stride, pads):
    out = jax.eval_shape(lambda x, w: _conv(x, w, stride=stride, pads=pads), x, w)
    return jax.core.ShapedArray(out.shape, out.dtype)


def _jvp(primals, tangents, **how):
    (x, w), (dx, dw) = primals, tangents
    out = _conv_p.bind(x, w, **how)
    parts = []
    if type(dx) is not ad.Zero:
        parts.append(_conv_p.bind(dx, w, **how))
    if type(dw) is not ad.Zero:
        parts.append(_conv(x, dw, **how))
    return out, sum(parts[1:], parts[0]) if parts else ad.Zero.from_primal_value(out)


def _transpose(dy, x, w, *, stride, pads):
    """Transpose in x alone: `_jvp` sends the tangent of w through JAX's own convolution."""
    size, window = x.aval.shape[1:3], w.shape[:2]
    flipped = jnp.flip(w, (0, 1)).swapaxes(2, 3)
    low = [k - 1 - p for k, (p, _) in zip(window, pads, strict=True)]
    high = [n + p - 1 - (m - 1) * stride for n, (p, _), m in zip(size, pads, dy.shape[1:3], strict=True)]
    dx = (
        jax.lax.conv_general_dilated(
            dy,
            flipped,
            (1, 1),
            list(zip(low, high, strict=True)),
            lhs_dilation=(stride, stride),
            dimension_numbers=LABELS,
        )
        if stride > 1
        else _conv_p.bind(dy, flipped, stride=1, pads=tuple(zip(low, high, strict=True)))
    )
    return dx, None


def _batch(args, dims, **how):
    (x, w), (bx, bw) = args, dims
    if bw is not None:  # every element has its own kernel
        return jax.vmap(lambda x, w: _conv(x, w, **how), (bx, bw))(x, w), 0
    x = jnp.moveaxis(x, bx, 0)
    out = _conv_p.bind(x.reshape(-1, *x.shape[2:]), w, **how)
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


ad.primitive_jvps[_conv_p] = _jvp
ad.primitive_transposes[_conv_p] = _transpose
batching.primitive_batchers[_conv_p] = _batch


def conv2d(x: Any, w: Any, stride: int = 1, pad: tuple[int, int] | None = None) -> Any:
    """Convolve one image `x` (H, W, C) with `w` (k, k, C, D), k odd, zero padding k // 2 as in PyTorch.

    `pad`, if given, is another padding (before, after) of both axes.
    """
    pads = tuple(pad or (k // 2, k // 2) for k in w.shape[:2])
    return _conv_p.bind(x[None], w, stride=stride, pads=pads)[0]
