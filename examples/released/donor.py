"""MMSplice's donor module (mmsplice 2.4.0, MIT; Cheng et al. 2019, Genome Biology 20:48): is this a 5' splice site?

Trained on annotated human sites; 5 bases of the exon and 13 of the intron. It has seen none of the measurements of
`datasets.splice`, whose nine bases are the three before the cut and the six after it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.checkpoints.tensors import exact
from guidance_jax.core import Guide, pytree, static
from guidance_jax.models.network import Parametrized
from guidance_jax.zoo.layers import StoredNorm
from released.carried import Carried, Package
from released.keras_file import read_keras

DONOR = Carried(
    Package("mmsplice", "2.4.0", "d70a3a281b9433b89e6a8612cc2ca2611f54c35b90f46e16772b2868ec94b60a"),
    "mmsplice/models/Donor.h5",
    "d1e17b9fd7462e492d2c520af539d93e092527ba19d835cd8602f376912ff5c6",
)
EXON, INTRON, MEASURED_EXON, MEASURED_INTRON = 5, 13, 3, 6
BASES = 4


class DonorNetwork(nn.Module):
    """One-hot bases (18, 4), A C G T, to one logit; sub-modules carry the names of Keras' layers."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(StoredNorm(1e-3, name="batch_normalization_1")(nn.Dense(128, name="dense1")(x.reshape(-1))))
        h = nn.relu(StoredNorm(1e-3, name="batch_normalization_2")(nn.Dense(64, name="dense2")(h)))
        return nn.Dense(1, name="dense_1")(h)[0]


@pytree
class Donor(Parametrized, Guide):
    """log p(donor) of nine bases, the mean of p over what may lie around them; the condition is not read.

    Takes tokens (9,), or one-hot rows (9, 4); a fifth state is a mask, in the place of which the network sees the mean
    of the bases.

    Attributes:
      params: of the network.
      exon, intron: (n, 2, 4) and (n, 7, 4), the bases around, as one-hot rows.
      apply: the network's.
    """

    params: Any
    exon: Any
    intron: Any
    apply: Callable = static()

    def log_prob(self, x, level, cond):
        if jnp.issubdtype(x.dtype, jnp.integer):
            x = jax.nn.one_hot(x, BASES + 1)
        x = x[:, :BASES] + (x[:, BASES:] / BASES if x.shape[1] > BASES else 0.0)

        def one(exon, intron):
            return jax.nn.log_sigmoid(self.apply(self.params, jnp.concatenate([exon, x, intron])))

        each = jax.vmap(one)(self.exon, self.intron)
        return jax.nn.logsumexp(each) - jnp.log(len(each))


def donor(path: str | Path | None = None, *, around: int = 64, download: bool = False) -> Donor:
    """The network, 18 thousand parameters, over `around` random surroundings.

    Raises:
      Refused: its file is missing (the message says how to get it) or another one; h5py is not installed.
    """
    network = DonorNetwork()
    params = exact(read_keras(DONOR.read(path, download=download)), network, jnp.zeros((EXON + INTRON, BASES)))
    sides = (EXON - MEASURED_EXON, INTRON - MEASURED_INTRON)
    bases = jax.random.randint(jax.random.key(0), (around, sum(sides)), 0, BASES)
    exon, intron = jnp.split(jax.nn.one_hot(bases, BASES), [sides[0]], axis=1)
    return Donor(params, exon, intron, network.apply)
