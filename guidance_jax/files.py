"""Files that are written whole or not at all: samples, checkpoints, manifests."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidance_jax.core import Refused

PART = ".part-"  # files that are being written
UMASK = os.umask(0)  # it can only be read by setting it
os.umask(UMASK)


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
        os.chmod(file.name, 0o666 & ~UMASK)
        os.replace(file.name, path)
    except OSError as error:
        raise Refused(f"{path}: {reason(error)}; no part of it was written: mend that and start again") from None


def cache(name: str) -> Path:
    """The folder of that name for what can be made or downloaded again; who writes there makes it."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "guidance_jax" / name


def reason(error: OSError) -> str:
    """In words: why something cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "the disk is full" if full else f"it cannot be written ({error.strerror or error})"


def check_writable(path: Path) -> None:
    """Raise `Refused` now, not after hours, if a file could not be written at `path`."""
    try:
        if path.is_dir():
            raise Refused(f"{path} is a folder; give the name of a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PART):
            pass
    except OSError as error:
        raise Refused(f"{path}: {reason(error)}; choose another place") from None
