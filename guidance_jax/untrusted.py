"""Read files from outside safely: their names, their JSON, their sizes, and the exceptions of the libraries for them.

Nothing in a file is trusted before it is checked. A name is never a path, and a size is compared with the bytes that
are there. Whatever a library raises becomes one `Refused` line.
"""

import gzip
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from guidance_jax.core import Refused, first_line

SMALL, RATIO = 2**26, 100  # a file may expand to 64 MiB, or to 100 times its size
JSON_BYTES, JSON_DEPTH = 2**22, 32
PLAIN = re.compile(r"\w[\w.+ -]{0,199}")


@contextmanager
def reading(what: Any, advice: str = "fetch it again") -> Iterator[None]:
    """Turn whatever a library raises while it reads `what` into one `Refused` line.

    All types are caught, since a list of types is never complete. Libraries for one format raise the exceptions of
    many others, and those written in Rust raise a `PanicException`, which is a `BaseException`.

    Raises:
      Refused: with the name of the file, the first line of the error, and the advice.
    """
    try:
        yield
    except (Refused, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise Refused(f"{what} cannot be read ({first_line(error)}); {advice}") from None


def plain_name(name: Any, where: Any) -> str:
    """Return `name` if it is a plain file name: a letter, digit or `_`, then up to 199 of these, `. + -` and spaces.

    Raises:
      Refused: a name with a folder in it, a hidden one, one that is too long, or no name.
    """
    if not isinstance(name, str) or PLAIN.fullmatch(name) is None:
        raise Refused(f"{where} names the file {str(name)[:80]!r}, expected a plain name without folders; remove it")
    return name


def file_at(path: str | Path) -> Path:
    """Return `path` if it is a file. Reading a pipe or a device might never end.

    Raises:
      Refused: a path without a file: nothing, a folder, or something else.
    """
    path = Path(path)
    with reading(path, "give the path of a file"):
        found = path.is_file()
    if not found:
        raise Refused(f"{path} {'is not a file' if path.exists() else 'does not exist'}; give the path of a file")
    return path


def read_json(path: str | Path, kind: type = dict, limit: int = JSON_BYTES) -> Any:
    """Return the content of a JSON file of at most `limit` bytes and 32 levels, with finite numbers.

    Raises:
      Refused: a missing, damaged, larger or deeper file, or one that does not hold a `kind` (an object).
    """
    path = file_at(path)
    with reading(path, "restore it"):
        raw = path.read_bytes() if path.stat().st_size <= limit else None
        if raw is not None:
            found = json.loads(raw, parse_constant=finite, parse_float=finite)
    if raw is None:
        raise Refused(
            f"{path} has {path.stat().st_size:,} bytes, at most {limit:,} are accepted; check that it is the right file"
        )
    if not isinstance(found, kind):
        raise Refused(f"{path} holds a {type(found).__name__}, expected a {kind.__name__}; restore it")
    level, depth = [found], 0
    while level and depth <= JSON_DEPTH:
        inside = [v for v in level if isinstance(v, dict | list)]
        level = [w for v in inside for w in (v.values() if isinstance(v, dict) else v)]
        depth += 1
    if level:
        raise Refused(f"{path} is nested more than {JSON_DEPTH} levels deep; restore it")
    return found


def finite(text: str) -> float:
    """Return a number of a JSON file. Raise `ValueError` if it is not finite."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def most_of(size: int) -> int:
    """Return how many bytes may be read from a file of `size` bytes: 64 MiB, or 100 times its size if that is more."""
    return max(SMALL, RATIO * size)


def check_size(wanted: int, size: int, where: Any) -> None:
    """Raise unless `wanted` bytes may be read from a file of `size` bytes.

    Raises:
      Refused: more than `most_of(size)` bytes; the error gives both sizes.
    """
    if wanted > most_of(size):
        raise Refused(
            f"{where} has {size:,} bytes and would be {wanted:,} in memory; at most {most_of(size):,} are accepted; "
            "store it with less compression if it is the right file"
        )


def unzip(file: BinaryIO, size: int, where: Any) -> bytes:
    """Return the content of a gzip file of `size` bytes. It is read in pieces, up to `most_of(size)` bytes.

    Raises:
      Refused: a damaged or truncated file, or one that holds too much.
    """
    parts, total = [], 0
    with reading(where), gzip.GzipFile(fileobj=file) as stream:
        while part := stream.read(2**20):
            parts.append(part)
            check_size(total := total + len(part), size, where)
    return b"".join(parts)


def folder_at(path: str | Path) -> Path:
    """Return `path`, if a folder is there.

    Raises:
      Refused: no folder.
    """
    if not Path(path).is_dir():
        raise Refused(f"there is no folder {path}; check the path")
    return Path(path)


def whole_number(about: Any, name: str, where: Any, least: int = 1, most: int = 2**20) -> int:
    """Return the whole number called `name` in a configuration.

    Raises:
      Refused: a value that is no whole number from `least` to `most`.
      KeyError: a configuration without `name`.
    """
    value = about[name]
    if type(value) is not int or not least <= value <= most:
        raise Refused(f"{where} has {name} = {repr(value)[:80]}, expected a whole number from {least} to {most:,}")
    return value
