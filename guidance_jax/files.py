"""Files that are written whole or not at all: samples, checkpoints, manifests."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidance_jax.core import Refused

PART = ".part-"  # files that are being written


def write_whole(path: Path, fill: Callable[[Any], Any]) -> None:
    """`fill` a file beside, then rename it: no reader, and no restart, ever sees half of it.

    Raises:
      Refused: a disk that is full, a folder that cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PART, delete=False) as file:
            try:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, path)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else f"it cannot be written ({error.strerror})"
        raise Refused(f"{path}: {what}; what is written already is kept; start again when it is mended") from None
