"""ProteinMPNN (Dauparas et al. 2022, Science 378:49): letters of a protein from its backbone, decided in any order.

A graph of the nearest residues; messages are summed and divided by 30 whatever their number. The encoder sees the
backbone alone. In the decoder a residue sees the letters and decoder states of those decided before it, and the encoder
states of the others. Sub-modules carry the names of the authors' PyTorch modules.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

LETTERS = 21  # the last is an unknown one
WIDTH, NEIGHBOURS, SUM = 128, 48, 30.0
# which distances an edge has, between the atoms N, CA, C, O, CB of its ends
ATOMS = {"N": 0, "CA": 1, "C": 2, "O": 3, "CB": 4}
PAIRS = (
    "CA-CA N-N C-C O-O CB-CB CA-N CA-C CA-O CA-CB N-C N-O N-CB CB-C CB-O O-C N-CA C-CA O-CA CB-CA C-N O-N CB-N C-CB "
    "O-CB C-O"
)


def gelu(x):
    return nn.gelu(x, approximate=False)


def layer_norm(name):
    return nn.LayerNorm(1e-5, name=name)


class Block(nn.Module):
    """A node's state from the messages of its neighbours; in the encoder the edges are told too."""

    edges: bool = False

    @nn.compact
    def __call__(self, h, known, neighbours):
        """h (L, width), known (L, K, ...) of the edges; returns (h, edges)."""

        def message(h, names):
            ends = jnp.broadcast_to(h[:, None], (*neighbours.shape, WIDTH))
            parts = [ends, known, h[neighbours]] if self.edges else [ends, known]
            return linear(jnp.concatenate(parts, -1), names)

        def linear(x, names):
            for name in names[:-1]:
                x = gelu(nn.Dense(WIDTH, name=name)(x))
            return nn.Dense(WIDTH, name=names[-1])(x)

        m = message(h, ("W1", "W2", "W3"))
        h = layer_norm("norm1")(h + jnp.sum(m, 1) / SUM)
        wide = gelu(nn.Dense(4 * WIDTH, name="dense_W_in")(h))
        h = layer_norm("norm2")(h + nn.Dense(WIDTH, name="dense_W_out")(wide))
        if self.edges:
            known = layer_norm("norm3")(known + message(h, ("W11", "W12", "W13")))
        return h, known


class ProteinMPNN(nn.Module):
    """`encode(backbone, ...)` once a protein, `decode(letters, rank, encoded)` once a step.

    Attributes:
      classes: of the label of the whole protein; 0 for the networks without one.
    """

    classes: int = 0

    def setup(self):
        self.features_embeddings_linear = nn.Dense(16)
        self.features_edge_embedding = nn.Dense(WIDTH, use_bias=False)
        self.features_norm_edges = nn.LayerNorm(1e-5)
        self.W_e = nn.Dense(WIDTH)
        if self.classes:
            self.features_node_embedding = nn.Dense(WIDTH, use_bias=False)
            self.features_norm_nodes = nn.LayerNorm(1e-5)
            self.W_v = nn.Dense(WIDTH)
        self.W_s = nn.Embed(LETTERS, WIDTH)
        self.encoder_layers = [Block(True) for _ in range(3)]
        self.decoder_layers = [Block() for _ in range(3)]
        self.W_out = nn.Dense(LETTERS)

    def encode(self, backbone: Any, number: Any, chain: Any, label: Any = None) -> tuple:
        """(node states, edge states, neighbours) of a backbone (L, 4, 3) of N, CA, C, O, in angstrom.

        number, chain: (L,) residue numbers and chains. label: of the whole protein, where the network has one.
        """
        neighbours, edges = self.edge_features(backbone, number, chain)
        e = self.W_e(self.features_norm_edges(self.features_edge_embedding(edges)))
        h = jnp.zeros((len(backbone), WIDTH), e.dtype)
        if self.classes:
            own = self.features_norm_nodes(self.features_node_embedding(jax.nn.one_hot(label, self.classes)))
            h = jnp.broadcast_to(self.W_v(own), h.shape)
        for block in self.encoder_layers:
            h, e = block(h, e, neighbours)
        return h, e, neighbours

    def edge_features(self, backbone, number, chain):
        n, ca, c = backbone[:, 0], backbone[:, 1], backbone[:, 2]
        b, c = ca - n, c - ca
        cb = -0.58273431 * jnp.cross(b, c) + 0.56802827 * b - 0.54067466 * c + ca
        atoms = jnp.concatenate([backbone, cb[:, None]], 1)
        apart = jnp.sqrt(jnp.sum((ca[:, None] - ca) ** 2, -1) + 1e-6)
        _, neighbours = jax.lax.top_k(-apart, min(NEIGHBOURS, len(backbone)))
        near = atoms[neighbours]
        pairs = [tuple(ATOMS[a] for a in pair.split("-")) for pair in PAIRS.split()]
        first, second = jnp.asarray(pairs).T
        distance = jnp.sqrt(jnp.sum((atoms[:, None, first] - near[:, :, second]) ** 2, -1) + 1e-6)
        bells = jnp.exp(-(((distance[..., None] - jnp.linspace(2.0, 22.0, 16)) / 1.25) ** 2))
        offset = jnp.clip(number[:, None] - number[neighbours] + 32, 0, 64)
        place = jnp.where(chain[:, None] == chain[neighbours], offset, 65)
        place = self.features_embeddings_linear(jax.nn.one_hot(place, 66))
        return neighbours, jnp.concatenate([place, bells.reshape(*neighbours.shape, -1)], -1)

    def decode(self, letters: Any, rank: Any, encoded: tuple) -> Any:
        """Logits (L, 21) of every residue given the letters of those of lower `rank`; equal ranks do not see each
        other.

        letters: (L,) integers.
        """
        own, e, neighbours = encoded
        s = self.W_s(letters)
        before = (rank[neighbours] < rank[:, None])[..., None]
        h = own
        for block in self.decoder_layers:
            known = jnp.concatenate(
                [e, jnp.where(before, s[neighbours], 0), jnp.where(before, h[neighbours], own[neighbours])], -1
            )
            h, _ = block(h, known, neighbours)
        return self.W_out(h)

    def __call__(self, backbone, number, chain, letters, rank, label=None):
        return self.decode(letters, rank, self.encode(backbone, number, chain, label))
