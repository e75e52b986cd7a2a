"""lac promoters sorted by expression (Kinney et al. 2010, sort-seq), carried by the package mavenn: 50,518 of 75
bases."""

import csv
import gzip
import io
from pathlib import Path

import numpy as np

from guidance_jax.datasets.carried import Carried
from guidance_jax.datasets.sequences import Sequences, index_of

DNA = ("A", "C", "G", "T")
SORTSEQ = Carried(
    "mavenn",
    "1.1.4",
    "mavenn/examples/datasets/sortseq_data.csv.gz",
    "874d92522535f24517e1c389f21c9e067ab30f43ec34cf951d3efee498324d40",
    "pip download --no-deps mavenn==1.1.4",
)


def promoters(path: str | Path | None = None) -> Sequences:
    """(50518, 75): the label is the expression bin, 0 to 9, in which most reads of the sequence were found.

    Raises:
      ValueError: the file is missing (the message says how to get it) or another one.
    """
    rows = list(csv.DictReader(io.StringIO(gzip.decompress(SORTSEQ.read(path)).decode())))
    index = index_of(DNA)
    tokens = np.asarray([[index[c] for c in row["x"]] for row in rows], np.int32)
    counts = np.asarray([[int(float(row[f"ct_{i}"])) for i in range(10)] for row in rows])
    return Sequences(tokens, counts.argmax(1).astype(np.int32), tuple(f"bin {i}" for i in range(10)), DNA)
