"""One transformer with rotary positions for all published masked language models, of one sequence.

    h <- h + r attention(norm(h)),   h <- h + r mlp(norm(h)),   logits = head(norm(h))

Layers are stacked and scanned: one compilation whatever the depth. A cache of keys and values lets a block of tokens
attend to what was read before it.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.zoo.layers import attend, timestep_embedding


@dataclass(frozen=True)
class RotaryTransformer:
    """The options that tell the published networks apart. Parameters are nested dictionaries, as `shapes` says.

    Attributes:
      vocabulary, width, hidden, layers, heads, channels: V, the width of a token, of the MLP, the layers, the heads of
        attention and the channels of each.
      groups: heads of keys and values; each serves heads / groups queries.
      theta, local_theta: bases of the rotary frequencies, of layers that see everything and of local ones.
      local: of each layer, whether it sees `window` positions to each side only; empty for none.
      window: of local layers.
      norm: "rms" or "layer"; `eps` is added to the variance, `norm_bias` says whether norms of layers have a bias.
      eps, norm_bias: of norms.
      query_norm: "head" (Qwen3), "width" (ESM-C) or "" for none.
      qkv_bias, out_bias, mlp_bias: which dense layers have a bias.
      mlp: "silu" or "gelu" with a gate, or without one "plain" for GELU and "tanh" for its approximation.
      embed_norm: whether embeddings are normalised, and the first layer is not (ModernBERT).
      residual: r, by which both parts of a layer are multiplied (ESM-C).
      head: "tied", "linear", or "dense" for dense, GELU, norm, then the table of tokens; `head_bias` and `tied` are of
        the dense one. With "none" the states of the last layer are put out, before any norm.
      head_bias, dense_bias, tied: the dense head's biases, and whether its last table is that of the tokens.
      final_bias: whether the last norm has a bias.
      masks_are_zero: the number of the mask, whose embedding is 0, the others scaled as in training (ESM-2); -1 for no.
      modulated: the width of the embedding of the noise level that scales, shifts and gates every part (DDiT: MDLM,
        UDLM and ReMDM); 0 for none.
      timed: whether the network is told -log(alpha); else it is told 0, whatever the level.
      shifted: whether the logits of a position are made at the one before it (Dream).
      dtype: in which it computes; norms, positions and attention weights are float32.
    """

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    channels: int
    groups: int
    theta: float = 10000.0
    local_theta: float = 10000.0
    local: tuple[bool, ...] = ()
    window: int = 0
    norm: str = "rms"
    eps: float = 1e-6
    norm_bias: bool = False
    final_bias: bool = False
    query_norm: str = ""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    mlp: str = "silu"
    embed_norm: bool = False
    residual: float = 1.0
    head: str = "linear"
    head_bias: bool = False
    dense_bias: bool = True
    tied: bool = False
    masks_are_zero: int = -1
    modulated: int = 0
    timed: bool = False
    shifted: bool = False
    dtype: Any = None

    def shapes(self) -> dict[str, Any]:
        """The shapes of all parameters; those of the layers have the layer in front."""
        d, inner, own = self.width, self.heads * self.channels, self.groups * self.channels

        def norm(size, bias=self.norm_bias):
            return {"scale": (size,)} | ({"bias": (size,)} if bias else {})

        def dense(inputs, outputs, bias):
            return {"kernel": (inputs, outputs)} | ({"bias": (outputs,)} if bias else {})

        layer = {
            "norm_1": norm(d),
            "norm_2": norm(d),
            "q": dense(d, inner, self.qkv_bias),
            "k": dense(d, own, self.qkv_bias),
            "v": dense(d, own, self.qkv_bias),
            "o": dense(inner, d, self.out_bias),
            "up": dense(d, self.hidden, self.mlp_bias),
            "down": dense(self.hidden, d, self.mlp_bias),
        }
        if self.modulated:
            layer["modulation"] = dense(self.modulated, 6 * d, True)
        if self.mlp in ("silu", "gelu"):
            layer["gate"] = dense(d, self.hidden, self.mlp_bias)
        if self.query_norm:
            size = self.channels if self.query_norm == "head" else inner
            layer |= {"q_norm": norm(size, False), "k_norm": norm(size, False)}
        stacked = jax.tree.map(lambda s: (self.layers, *s), layer, is_leaf=lambda s: isinstance(s, tuple))
        found = {"embed": (self.vocabulary, d), "layers": stacked}
        if self.head != "none":
            found["norm"] = norm(d, self.final_bias)
        if self.embed_norm:
            found["embed_norm"] = norm(d)
        if self.modulated:
            found |= {"time_0": dense(256, self.modulated, True), "time_1": dense(self.modulated, self.modulated, True)}
            found["final_modulation"] = dense(self.modulated, 2 * d, True)
        if self.head == "linear":
            found["head"] = dense(d, self.vocabulary, self.head_bias)
        if self.head == "dense":
            found["dense"] = dense(d, d, self.dense_bias)
            found["dense_norm"] = norm(d, self.final_bias or self.norm_bias)
            table = {} if self.tied else {"kernel": (d, self.vocabulary)}
            found["head"] = table | ({"bias": (self.vocabulary,)} if self.head_bias else {})
        return found

    def blank(self, length: int) -> jax.Array:
        """An empty cache for `length` tokens, (layers, 2, length, groups, channels)."""
        return jnp.zeros((self.layers, 2, length, self.groups, self.channels), self.dtype or jnp.float32)

    def apply(self, params: Any, x: Any, t: Any = None, cond: Any = None) -> jax.Array:
        """Logits (L, V) of a sequence (L,), every position seeing all; the clock t = 1 - alpha is read if `timed`.

        `cond` may be a dictionary with `padding`, how many tokens from the left are no part of the text.
        """
        return self.read(params, x, 0, None, padding_of(cond), t=t if self.timed else None)[0]

    def read(
        self, params: Any, x: Any, start: Any, cache: Any, padding: Any = 0, block: int | None = None, t: Any = None
    ) -> tuple[jax.Array, Any]:
        """(logits (B, V), cache) of the tokens x (B,) at the positions from `start` on.

        Args:
          params: as `shapes` says.
          x: tokens.
          start: the position of the first.
          cache: keys and values of a whole sequence, into which those of x are written; None for x alone.
          padding: how many positions from the left nobody sees.
          block: with it a position sees its own block of so many tokens and those before; without, everything.
          t: the clock, of networks that are told it; None for a level without noise.
        """
        dtype = self.dtype or params["embed"].dtype
        place = start + jnp.arange(len(x))
        h = params["embed"][x].astype(dtype)
        if self.masks_are_zero >= 0:
            hidden = x == self.masks_are_zero
            share = jnp.sum(hidden & (place >= padding)) / jnp.maximum(len(x) - padding, 1)
            h = jnp.where(hidden[:, None], 0, h) * (0.88 / jnp.maximum(1 - share, 1e-6)).astype(dtype)
        if self.embed_norm:
            h = self.normalize(params["embed_norm"], h)
        others = place if cache is None else jnp.arange(cache.shape[2])
        allowed = jnp.broadcast_to(others >= padding, (len(x), len(others)))
        if block is not None:
            allowed &= (others // block)[None] <= (place // block)[:, None]
        allowed |= others == place[:, None]  # padding sees itself, so that no row is empty
        near = allowed & (jnp.abs(others - place[:, None]) <= self.window)
        angles = jnp.stack([rotations(place, self.channels, base) for base in (self.theta, self.local_theta)])
        if self.modulated:
            noise = 0.0 if t is None else -jnp.log1p(-(1 - 1e-3) * t)
            c = jax.nn.silu(affine(params["time_0"], timestep_embedding(noise, 256).astype(dtype)))
            c = jax.nn.silu(affine(params["time_1"], c))
        local = jnp.asarray(self.local or (False,) * self.layers)

        def layer(h, inputs):
            p, own, is_local, first = inputs
            shifts = jnp.split(affine(p["modulation"], c), 6) if self.modulated else (0, 0, 1, 0, 0, 1)
            n = self.normalize(p["norm_1"], h) * (1 + shifts[1]) + shifts[0]
            n = jnp.where(first, h, n) if self.embed_norm else n
            q, k, v = (affine(p[name], n) for name in "qkv")
            if self.query_norm == "width":
                q, k = self.normalize(p["q_norm"], q), self.normalize(p["k_norm"], k)
            q, k, v = (a.reshape(len(x), -1, self.channels) for a in (q, k, v))
            if self.query_norm == "head":
                q, k = self.normalize(p["q_norm"], q), self.normalize(p["k_norm"], k)
            cosine, sine = angles[is_local.astype(int)]
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
            if own is not None:
                own = jax.lax.dynamic_update_slice(own, jnp.stack([k, v]).astype(own.dtype), (0, start, 0, 0))
                k, v = own.astype(dtype)
            k, v = (jnp.repeat(a, self.heads // self.groups, 1) for a in (k, v))
            out = attend(q, k, v, jnp.where(is_local, near, allowed)).reshape(len(x), -1)
            h = h + self.residual * shifts[2] * affine(p["o"], out)
            n = self.normalize(p["norm_2"], h) * (1 + shifts[4]) + shifts[3]
            up = affine(p["up"], n)
            if self.mlp in ("plain", "tanh"):
                n = jax.nn.gelu(up, approximate=self.mlp == "tanh")
            else:
                act = jax.nn.silu if self.mlp == "silu" else lambda a: jax.nn.gelu(a, approximate=False)
                n = act(affine(p["gate"], n)) * up
            return h + self.residual * shifts[5] * affine(p["down"], n), own

        first = jnp.arange(self.layers) == 0
        h, cache = jax.lax.scan(layer, h, (params["layers"], cache, local, first))
        if self.head == "none":
            return h, cache
        h = self.normalize(params["norm"], h)
        if self.modulated:
            shift, scale = jnp.split(affine(params["final_modulation"], c), 2)
            h = h * (1 + scale) + shift
        if self.head == "dense":
            h = self.normalize(params["dense_norm"], jax.nn.gelu(affine(params["dense"], h), approximate=False))
        table = params["embed"].T if self.head == "tied" or self.tied else params["head"]["kernel"]
        logits = jnp.matmul(h, table.astype(dtype))
        logits = logits + params["head"]["bias"].astype(dtype) if self.head_bias else logits
        return jnp.concatenate([logits[:1], logits[:-1]]) if self.shifted else logits, cache

    def normalize(self, p: Any, h: Any) -> Any:
        """The norm over the last axis, in float32 or better."""
        wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        if self.norm == "layer":
            wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + self.eps) * p["scale"]
        return (wide + p["bias"] if "bias" in p else wide).astype(h.dtype)


def affine(p: Any, h: Any) -> Any:
    """A dense layer."""
    out = jnp.matmul(h, p["kernel"].astype(h.dtype))
    return out + p["bias"].astype(h.dtype) if "bias" in p else out


def rotations(place: Any, channels: int, base: float) -> Any:
    """(cosines, sines) of the rotary angles of positions, (2, L, channels / 2)."""
    frequencies = jnp.exp(-math.log(base) * jnp.arange(0, channels, 2) / channels)
    angles = place[:, None] * frequencies
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def rotate(a: Any, cosine: Any, sine: Any) -> Any:
    """Heads (L, heads, channels) with the halves of their channels rotated."""
    one, two = jnp.split(a.astype(cosine.dtype), 2, -1)
    c, s = cosine[:, None], sine[:, None]
    return jnp.concatenate([one * c - two * s, two * c + one * s], -1).astype(a.dtype)


def padding_of(cond: Any) -> Any:
    """How many tokens from the left are padding, as a condition says."""
    return cond["padding"] if isinstance(cond, dict) and "padding" in cond else 0
