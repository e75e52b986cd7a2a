"""One transformer with rotary positions for all published masked language models; it reads one sequence.

    h <- h + r attention(norm(h)),   h <- h + r mlp(norm(h)),   logits = head(norm(h))

Layers are stacked and scanned, so XLA compiles one layer whatever the depth. A cache of keys and values lets a block of
tokens attend to tokens that were read earlier.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.zoo.layers import attend, timestep_embedding


@dataclass(frozen=True)
class RotaryTransformer:
    """A transformer whose fields are the options in which published networks differ.

    Parameters are nested dictionaries; `shapes` lists them.

    Attributes:
      vocabulary: V, the number of tokens.
      width: the number of channels of a token.
      hidden: the number of hidden channels of the MLP.
      layers: the number of layers.
      heads: the number of query heads of attention.
      channels: the number of channels of a head, even.
      groups: the number of key and value heads; each serves heads / groups query heads.
      theta: the base of the rotary frequencies in layers with full attention.
      local_theta: the base of the rotary frequencies in local layers.
      local: for each layer, whether it is local: a token sees only `window` positions to each side. Empty for no local
        layers.
      window: the reach of local layers, in positions.
      norm: "rms" (RMSNorm) or "layer" (LayerNorm).
      eps: the number that norms add to the variance.
      norm_bias: whether the norms of layers have a bias.
      query_norm: how queries and keys are normalised: "head" over each head (Qwen3), "width" over all heads (ESM-C), or
        "" for no norm.
      qkv_bias: whether the dense layers of queries, keys and values have a bias.
      out_bias: whether the dense layer after attention has a bias.
      mlp_bias: whether the dense layers of the MLP have a bias.
      mlp: "silu" or "gelu" with a gate; without a gate "plain" for GELU or "tanh" for its tanh approximation.
      embed_norm: whether the embeddings are normalised in place of the first norm of the first layer (ModernBERT).
      residual: r, the factor of the attention and the MLP of every layer (ESM-C).
      head: "tied" to the embeddings, "linear", or "dense" (dense, GELU, norm, then the table of tokens). "none" returns
        the states of the last layer before any norm.
      head_bias: whether the logits of a "linear" or "dense" head have a bias.
      dense_bias: whether the dense layer of a "dense" head has a bias.
      tied: whether the table of a "dense" head is the embeddings.
      final_bias: whether the last norm has a bias.
      masks_are_zero: the mask token, whose embedding is then 0; the others are scaled as in training (ESM-2). -1 for no
        such token.
      modulated: the width of the embedding of the noise level, which scales, shifts and gates every part (DDiT: MDLM,
        UDLM and ReMDM). 0 for none.
      timed: whether the network is told the noise level, as -log(0.001 + 0.999 alpha). If False, it is told 0 at every
        level.
      shifted: whether the logits of a position are computed at the position before it (Dream).
      dtype: the dtype of the computation; norms, positions and attention weights use float32. None for the dtype of
        the parameters.
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
        """Return the shapes of all parameters. The first axis of the parameters of layers is the layer."""
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
        """Return an empty cache for `length` tokens, of shape (layers, 2, length, groups, channels)."""
        return jnp.zeros((self.layers, 2, length, self.groups, self.channels), self.dtype or jnp.float32)

    def apply(self, params: Any, x: Any, t: Any = None, cond: Any = None) -> jax.Array:
        """Return the logits (L, V) of a sequence (L,) with full attention. The clock t = 1 - alpha is used if `timed`.

        `cond` may be a dictionary with `padding`, the number of padding tokens on the left.
        """
        return self.read(params, x, 0, None, padding_of(cond), t=t if self.timed else None)[0]

    def read(
        self, params: Any, x: Any, start: Any, cache: Any, padding: Any = 0, block: int | None = None, t: Any = None
    ) -> tuple[jax.Array, Any]:
        """Return (logits (B, V), cache) of the tokens x (B,), which stand at the positions from `start` on.

        Args:
          params: the parameters, a pytree with the structure of `shapes`.
          x: B tokens.
          start: the position of the first token.
          cache: keys and values of a whole sequence; those of x are written into it. None lets x see itself alone.
          padding: the number of padding positions on the left, which other positions do not see.
          block: the number of tokens of a block; a position then sees its own block and earlier ones. None for full
            attention.
          t: the clock, 1 - alpha, for `modulated` networks; None for a level without noise.
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
        allowed |= others == place[:, None]  # a padding position sees itself, so that no row is empty
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
        """Normalise the last axis, in float32 or better."""
        wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        if self.norm == "layer":
            wide = wide - jnp.mean(wide, -1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + self.eps) * p["scale"]
        return (wide + p["bias"] if "bias" in p else wide).astype(h.dtype)


def affine(p: Any, h: Any) -> Any:
    """Apply a dense layer."""
    out = jnp.matmul(h, p["kernel"].astype(h.dtype))
    return out + p["bias"].astype(h.dtype) if "bias" in p else out


def rotations(place: Any, channels: int, base: float) -> Any:
    """Return (cosines, sines) of the rotary angles of positions, of shape (2, L, channels / 2)."""
    frequencies = jnp.exp(-math.log(base) * jnp.arange(0, channels, 2) / channels)
    angles = place[:, None] * frequencies
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)])


def rotate(a: Any, cosine: Any, sine: Any) -> Any:
    """Rotate the two halves of the channels of heads (L, heads, channels)."""
    one, two = jnp.split(a.astype(cosine.dtype), 2, -1)
    c, s = cosine[:, None], sine[:, None]
    return jnp.concatenate([one * c - two * s, two * c + one * s], -1).astype(a.dtype)


def padding_of(cond: Any) -> Any:
    """Return the number of padding tokens on the left, which the condition holds; 0 if it does not."""
    return cond["padding"] if isinstance(cond, dict) and "padding" in cond else 0
