"""Folders on a disk and in object stores ("gs://bucket/job", "s3://bucket/job"), and what differs between the two.

| | a disk | an object store |
|---|---|---|
| a file is written completely or not at all | a temporary file, then a rename | one upload, visible when complete |
| only one process can create a file | exclusive creation | an upload on condition that no file is there |
| a sign of life | the modification time of a file | a counter in the file |

A place is a `pathlib.Path`, or a path of universal_pathlib, which has the same methods for fsspec's stores.
"""

import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused, first_line


def find_place(where: Any) -> Any:
    """Return the place that `where` names: a `Path`, or for an address ("gs://bucket/job") a path in an object store.

    Raises:
      Refused: an address whose packages are not installed, or that cannot be reached.

    >>> find_place("models/digits").name
    'digits'
    """
    if not isinstance(where, str) or "://" not in where:
        return Path(where) if isinstance(where, str) else where
    try:
        from upath import UPath
    except ModuleNotFoundError:
        raise Refused('object stores need their packages; pip install "guidance_jax[cloud]"') from None
    try:
        found = UPath(where, use_listings_cache=False)  # other processes' files are seen at once
        found.exists()  # imports the package of that store, and contacts it
    except Exception as error:  # every store has errors of its own
        raise Refused(f"{where[:200]} cannot be reached ({first_line(error)})") from None
    return found


@contextmanager
def errors_of_stores(place: Any) -> Iterator[None]:
    """Turn the errors of an object store, which have types of their own, into `OSError`, as a disk raises."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not is_remote(place):
            raise
        raise OSError(first_line(error)) from None


def is_remote(place: Any) -> bool:
    """Return whether a place is in an object store, not on a disk."""
    return not isinstance(place, Path)


def upload(place: Any, fill: Callable[[Any], Any]) -> None:
    """Write a file of this machine with `fill`, then upload it as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / place.name
        with copy.open("wb") as file:
            fill(file)
        with errors_of_stores(place):
            place.fs.put_file(str(copy), place.path)


@contextmanager
def local_copy(place: Any) -> Iterator[Path]:
    """Yield the file itself, or a downloaded copy that exists while the block runs."""
    if not is_remote(place):
        yield place
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / place.name
        with errors_of_stores(place):
            copy.write_bytes(place.read_bytes())
        yield copy


def open_arrays(place: Any) -> Any:
    """Open an `.npz` file with `np.load`, on a disk or in an object store."""
    with errors_of_stores(place):
        return np.load(io.BytesIO(place.read_bytes()) if is_remote(place) else place)


def create(place: Any, text: str) -> bool:
    """Create a file with `text`, and return True; return False if the file exists already.

    Raises:
      OSError: a folder that cannot be written to.
    """
    if is_remote(place):
        return _create_remote(place, text)
    try:
        descriptor = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    return True


def _create_remote(place: Any, text: str) -> bool:
    """Do the same in an object store. An upload that met another process's file is no error, whatever its type."""
    with errors_of_stores(place):
        try:
            place.fs.pipe_file(place.path, text.encode(), mode="create")
        except FileExistsError:
            return False
        except Exception:
            if place.exists():
                return False
            raise
    return True


def touch(place: Any) -> None:
    """Change the mark (`read_mark`) of a file that this process has made.

    Raises:
      OSError: a file that no longer exists.
    """
    if not is_remote(place):
        os.utime(place)
        return
    with errors_of_stores(place):
        text, _, beats = place.read_text().partition("\n")
        place.fs.pipe_file(place.path, f"{text}\n{int(beats or 0) + 1}".encode())


def read_mark(place: Any) -> Any:
    """Return a value that changes when a file is touched or made anew; None if there is no file."""
    try:
        with errors_of_stores(place):
            if is_remote(place):
                return place.read_bytes()
            found = place.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
