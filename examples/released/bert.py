"""BERT (Devlin et al. 2018, arXiv 1810.04805) over amino acids, for one chain: norms after the sums, learned positions.

AntiBERTy and Sapiens are two of its sizes. It can be left and entered at any layer, so that hidden states can be guided
wherever they are.
"""

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.zoo.layers import attend


class Layer(nn.Module):
    """Attention and a feed-forward network, each followed by its norm."""

    heads: int
    mlp_width: int
    epsilon: float

    @nn.compact
    def __call__(self, h):
        length, width = h.shape

        def split(name):
            return nn.Dense(width, name=name)(h).reshape(length, self.heads, -1)

        a = attend(split("query"), split("key"), split("value")).reshape(length, width)
        h = nn.LayerNorm(self.epsilon, name="out_norm")(h + nn.Dense(width, name="out")(a))
        a = nn.Dense(width, name="down")(nn.gelu(nn.Dense(self.mlp_width, name="up")(h), approximate=False))
        return nn.LayerNorm(self.epsilon, name="down_norm")(h + a)


class BERT(nn.Module):
    """Letters 0 to `letters` - 1 and the mask `letters`, or one-hot vectors of them, to hidden states and logits.

    `states(x)` gives the hidden states (L + 2, width) before layer `cut`, of the letters between two end marks;
    `rest(h)` takes them through the layers from `cut` on; `logits(h)` (L, letters) and `label(h, name)` read the last
    ones.

    Attributes:
      letters: of the alphabet.
      width, depth, heads, mlp_width, epsilon: of the layers.
      tokens, first, mask, begin, end: how many tokens the table holds, and which are the first letter, the mask and the
        two end marks.
      positions, offset: how many positions the table holds, and the first one's row.
      labels: names and numbers of classes of the heads on the pooled first state.
      cut: the layer between the two halves.
    """

    letters: int = 20
    width: int = 512
    depth: int = 8
    heads: int = 8
    mlp_width: int = 2048
    epsilon: float = 1e-12
    tokens: int = 25
    first: int = 5
    mask: int = 4
    begin: int = 2
    end: int = 3
    positions: int = 512
    offset: int = 0
    labels: tuple[tuple[str, int], ...] = ()
    cut: int = 0

    def setup(self):
        self.word = nn.Embed(self.tokens, self.width)
        self.position = nn.Embed(self.positions, self.width)
        self.norm = nn.LayerNorm(self.epsilon)
        self.layer = [Layer(self.heads, self.mlp_width, self.epsilon) for _ in range(self.depth)]
        self.transform, self.transform_norm = nn.Dense(self.width), nn.LayerNorm(self.epsilon)
        self.decoder = nn.Dense(self.tokens)
        if self.labels:
            self.pooler = nn.Dense(self.width)
            self.head = {name: nn.Dense(classes) for name, classes in self.labels}

    def states(self, x):
        rows = jnp.asarray([*range(self.first, self.first + self.letters), self.mask])
        table = self.word.embedding
        own = table[rows[x]] if jnp.issubdtype(x.dtype, jnp.integer) else x @ table[rows]
        h = jnp.concatenate([table[self.begin][None], own, table[self.end][None]])
        h = self.norm(h + self.position.embedding[self.offset : self.offset + len(h)])
        for layer in self.layer[: self.cut]:
            h = layer(h)
        return h

    def rest(self, h):
        for layer in self.layer[self.cut :]:
            h = layer(h)
        return h

    def logits(self, h):
        h = self.transform_norm(nn.gelu(self.transform(h[1:-1]), approximate=False))
        return self.decoder(h)[:, self.first : self.first + self.letters]

    def label(self, h, name):
        return self.head[name](jnp.tanh(self.pooler(h[0])))

    def decode(self, h):
        return self.logits(self.rest(h))

    def classify(self, h, name):
        return self.label(self.rest(h), name)

    def __call__(self, x):
        h = self.rest(self.states(x))
        return self.logits(h), {name: self.label(h, name) for name, _ in self.labels}
