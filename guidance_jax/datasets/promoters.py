"""lac promoters sorted by expression (Kinney et al. 2010, sort-seq), carried by the package mavenn: 50,518 of 75
bases."""

from pathlib import Path

import numpy as np

from guidance_jax.carried import Carried
from guidance_jax.datasets.sequences import Sequences, encode
from guidance_jax.datasets.splice import MAVENN

DNA = ("A", "C", "G", "T")
SORTSEQ = Carried(
    MAVENN,
    "mavenn/examples/datasets/sortseq_data.csv.gz",
    "874d92522535f24517e1c389f21c9e067ab30f43ec34cf951d3efee498324d40",
)


def promoters(path: str | Path | None = None) -> Sequences:
    """(50518, 75): the label is the expression bin, 0 to 9, in which most reads of the sequence were found.

    Raises:
      Refused: the file is missing (the message says how to get it) or another one.
    """
    rows = SORTSEQ.rows(path)
    tokens = encode([row["x"] for row in rows], DNA)
    counts = np.asarray([[int(float(row[f"ct_{i}"])) for i in range(10)] for row in rows])
    return Sequences(tokens, counts.argmax(1).astype(np.int32), tuple(f"bin {i}" for i in range(10)), DNA)
