"""5' splice sites with measured exon inclusion (Wong, Kinney & Krainer 2018, BRCA2 exon 17), carried by the package
mavenn.

30,483 of the 32,768 sequences NNNG[CU]NNNN, each measured once: p(x | y) is known by enumeration.
"""

from pathlib import Path

import numpy as np

from guidance_jax.datasets.sequences import Sequences, encode
from released.carried import Carried, Package

RNA = ("A", "C", "G", "U")
MAVENN = Package("mavenn", "1.1.4", "b54077ee40a94892ace26b609b1b6778bc906e14483d7e74f8258c9731871e57")
MPSA = Carried(
    MAVENN,
    "mavenn/examples/datasets/mpsa_data.csv.gz",
    "df1251425d7bae15cbae5922c9b05e7765344fc4bb13970fb44b51370c09cf74",
)


def splice(path: str | Path | None = None, top: float = 0.1, *, download: bool = False) -> Sequences:
    """All measured sites, (30483, 9): label 1 for the `top` share by inclusion, `values` are log10 of the percentage.

    Raises:
      Refused: the file is missing (the message says how to get it) or another one.
    """
    rows = MPSA.rows(path, download=download)
    tokens = encode([row["x"] for row in rows], RNA)
    values = np.asarray([float(row["y"]) for row in rows], np.float32)
    labels = (values >= np.quantile(values, 1 - top)).astype(np.int32)
    return Sequences(tokens, labels, ("rest", f"top {top:.0%}"), RNA, values)
