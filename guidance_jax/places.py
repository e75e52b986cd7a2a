"""Folders on a disk and in object stores ("gs://bucket/job", "s3://bucket/job"), and what differs between the two.

| | a disk | an object store |
|---|---|---|
| written whole or not at all | a file beside, then a rename | one upload, which is seen when it is complete |
| a file that only one can make | exclusive creation | an upload on condition that nothing is there |
| a sign of life | the time of the file | its content, which counts on |

A place is a `pathlib.Path`, or a path of universal_pathlib, which has the same methods over fsspec.
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
    """The place that a text names: a `Path`, or of an address such as "gs://bucket/job" the same of an object store.

    Raises:
      Refused: an address without the packages that reach it, or one that nothing reaches.

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
        found = UPath(where, use_listings_cache=False)  # what others have written is seen at once
        found.exists()  # imports the package of that store, and asks it
    except Exception as error:  # every store has errors of its own
        raise Refused(f"{where[:200]} cannot be reached ({first_line(error)})") from None
    return found


@contextmanager
def errors_of_stores(place: Any) -> Iterator[None]:
    """Errors that an object store calls by names of its own become `OSError`, as those of a disk are."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not is_remote(place):
            raise
        raise OSError(first_line(error)) from None


def is_remote(place: Any) -> bool:
    """Whether a place is none of a disk's."""
    return not isinstance(place, Path)


def upload(place: Any, fill: Callable[[Any], Any]) -> None:
    """`fill` a file of this machine, then upload it whole."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / place.name
        with copy.open("wb") as file:
            fill(file)
        with errors_of_stores(place):
            place.fs.put_file(str(copy), place.path)


@contextmanager
def local_copy(place: Any) -> Iterator[Path]:
    """The file itself, or what was downloaded of it, for as long as the block lasts."""
    if not is_remote(place):
        yield place
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / place.name
        with errors_of_stores(place):
            copy.write_bytes(place.read_bytes())
        yield copy


def open_arrays(place: Any) -> Any:
    """`np.load` of an `.npz`, wherever it lies."""
    with errors_of_stores(place):
        return np.load(io.BytesIO(place.read_bytes()) if is_remote(place) else place)


def create(place: Any, text: str) -> bool:
    """Whether there was no such file, so that this process has made it.

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
    """The same in an object store; an upload that met another's there is no error, whatever the store calls it."""
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
    """Change the mark of a file that this process has made.

    Raises:
      OSError: it is not there any more.
    """
    if not is_remote(place):
        os.utime(place)
        return
    with errors_of_stores(place):
        text, _, beats = place.read_text().partition("\n")
        place.fs.pipe_file(place.path, f"{text}\n{int(beats or 0) + 1}".encode())


def read_mark(place: Any) -> Any:
    """What changes when a file is touched or made anew; None where there is none."""
    try:
        with errors_of_stores(place):
            if is_remote(place):
                return place.read_bytes()
            found = place.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
