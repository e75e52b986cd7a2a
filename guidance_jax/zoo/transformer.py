"""Transformers for one sequence: a denoiser with hidden states and value heads, and GPT-2 with a cache.

Blocks carry the names of GPT-2's modules (dots become underscores), so that its checkpoints map one to one.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.zoo.layers import attend, causal, timestep_embedding

small = nn.initializers.normal(0.02)


def dense(features: int, name: str, scale: float = 1.0) -> nn.Dense:
    return nn.Dense(features, kernel_init=nn.initializers.normal(0.02 * scale), name=name)


def embed(table: Any, tokens: Any) -> Any:
    """Return rows of `table` (K, width) for tokens (L,), or mixtures of its rows for vectors (L, K)."""
    return table[tokens] if jnp.issubdtype(tokens.dtype, jnp.integer) else jnp.matmul(tokens, table)


class Block(nn.Module):
    """A block of attention and an MLP (two dense layers with GELU), each on a layer norm of its input and added to it.

    Without `cache` a sequence (L, width) attends to itself, only to the left if `causal`. With a `cache` (2, L, heads,
    channels) the input is one token (1, width). It is written to the cache at `position` and attends to the positions
    up to its own. `temperature` divides the logits of the attention. `exact` uses the exact GELU instead
    of GPT-2's approximation.
    """

    width: int
    heads: int
    depth: int  # blocks of the network; initial weights of residual outputs are divided by sqrt(2 depth)
    causal: bool = False
    exact: bool = False

    @nn.compact
    def __call__(self, x, cache=None, position=None, temperature=None):
        residual = 1 / math.sqrt(2 * self.depth)
        norm = nn.LayerNorm(epsilon=1e-5, name="ln_1")(x)
        q, k, v = jnp.moveaxis(dense(3 * self.width, "attn_c_attn")(norm).reshape(len(x), 3, self.heads, -1), 1, 0)
        q = q if temperature is None else q / temperature
        if cache is None:
            out = attend(q, k, v, causal(len(x)) if self.causal else None)
        else:
            cache = jax.lax.dynamic_update_slice(cache, jnp.stack([k, v]).astype(cache.dtype), (0, position, 0, 0))
            out = attend(q, cache[0], cache[1], (jnp.arange(cache.shape[1]) <= position)[None])
        x = x + dense(self.width, "attn_c_proj", residual)(out.reshape(len(x), self.width))
        norm = nn.LayerNorm(epsilon=1e-5, name="ln_2")(x)
        hidden = nn.gelu(dense(4 * self.width, "mlp_c_fc")(norm), approximate=not self.exact)
        x = x + dense(self.width, "mlp_c_proj", residual)(hidden)
        return x if cache is None else (x, cache)


class Transformer(nn.Module):
    """A denoiser of sequences, in two halves: `encode(x, t, cond) -> h (L, width)`, `decode(h) -> logits (L, outputs)`.

    Attributes:
      inputs: the number of states of the process, or the dimension of an embedding.
      outputs: the number of tokens that are predicted.
      length: L, the length of the sequences.
      width: the number of hidden channels.
      depth: the number of blocks.
      heads: the number of attention heads.
      num_classes: the number of labels, the null label included; 0 for none.
      values: the number of outputs of `value(h)`, a head on the mean hidden state: class logits, or attributes; 0 for
        none.
      decoder: how many of the `depth` blocks belong to `decode`. With 0, guidance acts on the last hidden states.
      self_conditioned: whether it takes a previous estimate (L, inputs).
      time_scale: the factor of the clock before it is embedded.
    """

    inputs: int
    outputs: int
    length: int
    width: int = 64
    depth: int = 3
    heads: int = 4
    num_classes: int = 0
    values: int = 0
    decoder: int = 0
    self_conditioned: bool = False
    time_scale: float = 1000.0

    def setup(self):
        # all have one size: beside a larger embedding of the time, tokens would vanish in the first layer norm
        fair = nn.initializers.normal(0.3)
        self.wte = self.param("wte", fair, (self.inputs, self.width))
        self.wpe = self.param("wpe", fair, (self.length, self.width))
        if self.num_classes:
            self.labels = self.param("labels", fair, (self.num_classes, self.width))
        if self.self_conditioned:
            self.previous = self.param("previous", small, (self.inputs, self.width))
        self.time = [nn.Dense(self.width, name="time_0"), dense(self.width, "time_1")]
        self.blocks = [Block(self.width, self.heads, self.depth, name=f"h_{i}") for i in range(self.depth)]
        self.ln_f = nn.LayerNorm(epsilon=1e-5)
        self.head = nn.Dense(self.outputs)
        if self.values:
            self.value_head = [nn.Dense(self.width, name="value_0"), nn.Dense(self.values, name="value_1")]

    def encode(self, x, t, cond=None, previous=None):
        """Return the hidden states (L, width) of tokens (L,), or of vectors (L, inputs)."""
        emb = self.time[1](nn.silu(self.time[0](timestep_embedding(t * self.time_scale, self.width))))
        if self.num_classes and cond is not None:
            emb = emb + self.labels[cond]
        h = embed(self.wte, x) + self.wpe + emb
        if self.self_conditioned and previous is not None:
            h = h + jnp.matmul(previous, self.previous)
        for block in self.blocks[: self.depth - self.decoder]:
            h = block(h)
        return h

    def decode(self, h):
        """Return the logits (L, outputs) of hidden states."""
        for block in self.blocks[self.depth - self.decoder :]:
            h = block(h)
        return self.head(self.ln_f(h))

    def value(self, h):
        """Return the values, of shape (values,), of hidden states (L, width)."""
        return self.value_head[1](nn.gelu(self.value_head[0](jnp.mean(h, 0))))

    def __call__(self, x, t, cond=None, previous=None):
        h = self.encode(x, t, cond, previous)
        logits = self.decode(h)
        return (logits, self.value(h)) if self.values else logits


class GPT2(nn.Module):
    """GPT-2 (Radford et al. 2019): causal, pre-norm, learned positions, tied output.

    Attributes:
      vocabulary: the number of tokens.
      context: the largest number of positions.
      width: the number of hidden channels.
      depth: the number of blocks.
      heads: the number of attention heads.
      num_classes: the number of labels, the null label included, whose embeddings are added to every input; 0 for none
        (GPT-2 itself).
      outputs: 0 for the tied language head, else the number of outputs of a separate head (a prefix classifier).
    """

    vocabulary: int
    context: int
    width: int = 64
    depth: int = 3
    heads: int = 4
    num_classes: int = 0
    outputs: int = 0

    def setup(self):
        self.wte = self.param("wte", small, (self.vocabulary, self.width))
        self.wpe = self.param("wpe", nn.initializers.normal(0.01), (self.context, self.width))
        if self.num_classes:
            self.labels = self.param("labels", small, (self.num_classes, self.width))
        self.blocks = [Block(self.width, self.heads, self.depth, True, name=f"h_{i}") for i in range(self.depth)]
        self.ln_f = nn.LayerNorm(epsilon=1e-5)
        if self.outputs:
            self.head = nn.Dense(self.outputs)

    def read(self, h):
        """Return the output of hidden states."""
        return self.head(h) if self.outputs else jnp.matmul(h, self.wte.T)

    def inputs(self, tokens, positions, cond):
        """Return the embeddings of tokens at their positions."""
        expected = jnp.issubdtype(jnp.result_type(tokens), jnp.floating)  # probabilities (..., V) of tokens
        h = (tokens @ self.wte if expected else self.wte[tokens]) + self.wpe[positions]
        return h + self.labels[cond] if self.num_classes and cond is not None else h

    def __call__(self, tokens, cond=None):
        """Return (logits (L, vocabulary), hidden states (L, width)) of a whole sequence."""
        h = self.inputs(tokens, jnp.arange(len(tokens)), cond)
        for block in self.blocks:
            h = block(h)
        h = self.ln_f(h)
        return self.read(h), h

    def step(self, token, position, cache, cond=None):
        """Read one token. Return (logits, hidden state, cache); the cache has shape (depth, 2, L, heads, channels)."""
        h = self.inputs(token, position, cond)[None]
        layers = []
        for block, layer in zip(self.blocks, cache, strict=True):
            h, layer = block(h, layer, position)
            layers.append(layer)
        h = self.ln_f(h)[0]
        return self.read(h), h, jnp.stack(layers)

    def blank(self, length):
        """Return an empty cache for sequences of `length` tokens, and an empty hidden state."""
        shape = (self.depth, 2, length, self.heads, self.width // self.heads)
        return jnp.zeros(shape), jnp.zeros(self.width)
