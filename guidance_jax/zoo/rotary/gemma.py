"""The network of DiffusionGemma: a causal encoder of the prompt and a decoder of a noisy canvas, with shared weights.

    h <- h + norm(attention(norm(h))),   h <- s (h + norm(norm(mlp(norm(h))) + norm(experts(norm(h)))))
    logits = c tanh(embed^T norm(h) / c)

The encoder returns keys and values of the prompt. Every token of the canvas attends to them and to the whole canvas.
The network gets no noise level. It gets the prediction of the last step as expected embeddings, z = softmax(logits /
T)^T embed, through a gated MLP (self-conditioning). Source: the transformers library, `models/diffusion_gemma`.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from guidance_jax.zoo.layers import attend
from guidance_jax.zoo.rotary.network import affine, rotate


@dataclass(frozen=True)
class AttentionKind:
    """The settings of one of the two kinds of attention layers.

    Attributes:
      channels: the channels of a head.
      groups: the number of heads of keys and values; each serves heads / groups heads of queries.
      theta: the base of the rotary frequencies.
      rotated: the share of channels that are rotated by the position.
      window: the number of tokens of the prompt that are seen; None for all.
      shared: whether the values are the keys before normalisation and rotation.
    """

    channels: int
    groups: int
    theta: float
    rotated: float = 1.0
    window: int | None = None
    shared: bool = False

    def frequencies(self) -> jax.Array:
        """Return the angle by which each pair of channels is rotated per position, (channels / 2,)."""
        half = self.channels // 2
        pair = jnp.arange(half)
        turning = pair < int(self.rotated * self.channels) // 2
        return jnp.where(turning, jnp.exp(-math.log(self.theta) * 2 * pair / self.channels), 0.0)


@dataclass(frozen=True)
class GemmaCanvas:
    """DiffusionGemma's text network, of one prompt and one canvas. Parameters are nested, as `shapes` says.

    Layers come in `repeats` equal groups, which are scanned. `kinds` has the attention of each layer of a group.

    Attributes:
      vocabulary: V, the number of tokens.
      width: channels of a token.
      hidden: channels of the dense MLP.
      heads: the number of heads of queries.
      kinds: the attention of each layer of a group.
      repeats: the number of groups.
      experts: the number of expert MLPs.
      chosen: the number of experts that the router chooses for each token.
      expert_hidden: the channels inside an expert.
      cap: c, the bound of the logits.
      eps: the number added to the mean square in normalisations.
      dtype: the dtype of the computation; None for that of the parameters. Norms, positions, attention weights, routing
        and logits are float32.
    """

    vocabulary: int
    width: int
    hidden: int
    heads: int
    kinds: tuple[AttentionKind, ...]
    repeats: int
    experts: int
    chosen: int
    expert_hidden: int
    cap: float = 30.0
    eps: float = 1e-6
    dtype: Any = None

    def shapes(self) -> dict[str, Any]:
        """Return the shapes of all parameters. Those of the layers have the number of the group in front."""
        d, inner = self.width, self.expert_hidden

        def of_layer(kind):
            keys = kind.groups * kind.channels
            values = {} if kind.shared else {"v": (d, keys)}
            return {
                **{f"norm_{name}": (d,) for name in ("1", "1_after", "2", "2_after", "dense", "experts", "experts_in")},
                "scalar": (1,),
                "scalar_of_prompt": (1,),
                "q": (d, self.heads * kind.channels),
                "k": (d, keys),
                **values,
                "o": (self.heads * kind.channels, d),
                "q_norm": (kind.channels,),
                "k_norm": (kind.channels,),
                "gate": (d, self.hidden),
                "up": (d, self.hidden),
                "down": (self.hidden, d),
                "route": (d, self.experts),
                "route_scale": (d,),
                "expert_scale": (self.experts,),
                "experts_in": (self.experts, d, 2 * inner),
                "experts_out": (self.experts, inner, d),
            }

        layers = [{k: (self.repeats, *shape) for k, shape in of_layer(kind).items()} for kind in self.kinds]
        told = {"norm": (d,), "gate": (d, self.hidden), "up": (d, self.hidden), "down": (self.hidden, d)}
        return {"embed": (self.vocabulary, d), "norm": (d,), "told": told, "layers": layers}

    def encode(self, params: Any, prompt: Any, padding: Any) -> list[jax.Array]:
        """Return keys and values of a prompt (P,), for each kind (repeats, 2, P, groups, channels).

        Attention is causal, and no token sees the first `padding` tokens.
        """
        place = jnp.arange(len(prompt))
        seen = (place[None] <= place[:, None]) & (place[None] >= padding)
        behind = place[:, None] - place[None]
        return self.run(params, self.embed(params, prompt), place, None, seen, behind, "scalar_of_prompt")[1]

    def decode(self, params: Any, canvas: Any, cache: Any, padding: Any, thought: Any) -> jax.Array:
        """Return the logits (L, V) of a canvas (L,), in float32.

        Args:
          params: as `shapes` says.
          canvas: the tokens, some of which are noise.
          cache: keys and values of P tokens, from `encode`.
          padding: the number of these tokens, from the left, that are not seen.
          thought: the expected embeddings (L, width) of the last step's prediction; zeros at the first step.
        """
        size, told = cache[0].shape[2], params["told"]
        h = self.embed(params, canvas)
        n = self.normalize(thought.astype(h.dtype), told["norm"])
        h = self.normalize(h + apply_mlp(n, told))
        place, others = size + jnp.arange(len(canvas)), jnp.arange(size + len(canvas))
        seen = jnp.broadcast_to(others >= padding, (len(canvas), len(others)))
        # a window reaches back from the end of the prompt; all of the canvas is near
        behind = jnp.broadcast_to(jnp.where(others < size, size - others, 0), seen.shape)
        h, _ = self.run(params, h, place, cache, seen, behind, "scalar")
        logits = jnp.matmul(self.normalize(h, params["norm"]), params["embed"].T.astype(h.dtype))
        return self.cap * jnp.tanh(logits.astype(jnp.promote_types(h.dtype, jnp.float32)) / self.cap)

    def expect(self, params: Any, log_p: Any) -> jax.Array:
        """Return the expected embeddings (L, width) of tokens with probabilities exp(log_p), (L, V)."""
        table = params["embed"].astype(self.dtype or params["embed"].dtype)
        return jnp.matmul(jnp.exp(log_p).astype(table.dtype), table) * math.sqrt(self.width)

    def embed(self, params: Any, tokens: Any) -> jax.Array:
        """Return the embeddings (L, width) of tokens."""
        return params["embed"][tokens].astype(self.dtype or params["embed"].dtype) * math.sqrt(self.width)

    def normalize(self, h: Any, scale: Any = 1.0) -> jax.Array:
        """Divide h by its root mean square along the last axis, in float32 or better, and multiply by `scale`."""
        wide = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        return (wide * jax.lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + self.eps) * scale).astype(h.dtype)

    def run(
        self, params: Any, h: Any, place: Any, cache: Any, seen: Any, behind: Any, scalar: str
    ) -> tuple[jax.Array, Any]:
        """Return (states, keys and values) after all layers, for tokens at the positions `place`.

        Args:
          params: as `shapes` says.
          h: the states (L, width).
          place: the positions (L,).
          cache: keys and values of the tokens before these; None for none.
          seen: (L, P + L), whether a token may be attended to if no window hides it.
          behind: (L, P + L), the distance that must be below the size of a window.
          scalar: the name of the factor of each layer, which encoder and decoder do not share.
        """

        def group(h, inputs):
            layers, before = inputs
            kept = []
            for i, kind in enumerate(self.kinds):
                h, pair = self.layer(layers[i], kind, h, place, before and before[i], seen, behind, scalar)
                kept.append(pair)
            return h, kept if cache is None else None

        return jax.lax.scan(group, h, (params["layers"], cache))

    def layer(
        self, p: Any, kind: AttentionKind, h: Any, place: Any, before: Any, seen: Any, behind: Any, scalar: str
    ) -> tuple[jax.Array, jax.Array]:
        """Return (states, own keys and values (2, L, groups, channels)) after one layer. Arguments as in `run`."""
        n = self.normalize(h, p["norm_1"])
        q, k = (times(n, p[name]).reshape(len(h), -1, kind.channels) for name in "qk")
        v = k if kind.shared else times(n, p["v"]).reshape(k.shape)
        q, k, v = self.normalize(q, p["q_norm"]), self.normalize(k, p["k_norm"]), self.normalize(v)
        angles = place[:, None] * kind.frequencies()
        cosine, sine = jnp.cos(angles), jnp.sin(angles)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        own = jnp.stack([k, v])
        k, v = own if before is None else jnp.concatenate([before.astype(own.dtype), own], 1)
        k, v = (jnp.repeat(a, self.heads // kind.groups, 1) for a in (k, v))
        near = seen if kind.window is None else seen & (behind < kind.window)
        width = len(h)
        near |= jnp.arange(near.shape[1])[None] == jnp.arange(width)[:, None] + near.shape[1] - width  # no row is empty
        out = attend(q * math.sqrt(kind.channels), k, v, near).reshape(width, -1)
        h = h + self.normalize(times(out, p["o"]), p["norm_1_after"])
        dense = self.normalize(apply_mlp(self.normalize(h, p["norm_2"]), p), p["norm_dense"])
        sparse = self.mix(p, h)
        h = h + self.normalize(dense + self.normalize(sparse, p["norm_experts"]), p["norm_2_after"])
        return h * p[scalar].astype(h.dtype), own

    def mix(self, p: Any, h: Any) -> jax.Array:
        """Return the sum of the chosen experts' outputs for each token, weighted by the router."""
        wide = jnp.promote_types(h.dtype, jnp.float32)
        n = self.normalize(h) * (p["route_scale"] * self.width**-0.5).astype(h.dtype)
        probability = jax.nn.softmax(times(n, p["route"]).astype(wide))
        weight, which = jax.lax.top_k(probability, self.chosen)
        weight = weight / jnp.sum(weight, -1, keepdims=True) * p["expert_scale"][which]
        inputs = self.normalize(h, p["norm_experts_in"])
        return ask_experts(inputs, which, weight.astype(h.dtype), p["experts_in"], p["experts_out"])


def times(h: Any, kernel: Any) -> jax.Array:
    """Apply a dense layer without bias."""
    return affine({"kernel": kernel}, h)


def apply_mlp(h: Any, p: Any) -> jax.Array:
    """Return down(gelu(gate(h)) up(h)), with the tanh approximation of GELU."""
    return times(jax.nn.gelu(times(h, p["gate"])) * times(h, p["up"]), p["down"])


@jax.custom_batching.custom_vmap
def ask_experts(h: Any, which: Any, weight: Any, kernel_in: Any, kernel_out: Any) -> jax.Array:
    """Return sum_k weight[:, k] expert_which[:, k](h) for tokens h (N, width).

    Tokens are sorted by expert, so that each expert is called once. Under `vmap` the tokens of all samples go through
    the experts together. The function has no derivative.
    """
    chosen = which.shape[1]
    order = jnp.argsort(which.reshape(-1))
    sizes = jnp.bincount(which.reshape(-1), length=len(kernel_in))
    rows = jnp.repeat(h, chosen, 0)[order]
    gate, up = jnp.split(jax.lax.ragged_dot(rows, kernel_in.astype(h.dtype), sizes), 2, -1)
    out = jax.lax.ragged_dot(jax.nn.gelu(gate) * up, kernel_out.astype(h.dtype), sizes)
    return jnp.sum(out[jnp.argsort(order)].reshape(*which.shape, -1) * weight[..., None], 1)


@ask_experts.def_vmap
def ask_experts_of_many(n, batched, h, which, weight, kernel_in, kernel_out):
    def flat(a, is_batched):
        a = a if is_batched else jnp.broadcast_to(a[None], (n, *a.shape))
        return a.reshape(-1, a.shape[-1])

    tokens = [flat(a, is_batched) for a, is_batched in zip((h, which, weight), batched[:3], strict=True)]
    return ask_experts(*tokens, kernel_in, kernel_out).reshape(n, -1, h.shape[-1]), True
