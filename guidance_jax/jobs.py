"""Long sampling jobs that may be killed at any instant: shards on disk, each written whole or not at all.

    DIR/manifest.json          what the job is: n, samples a shard, and everything that decides the samples
    DIR/shard_00000.npz        arr_0 samples, arr_1 labels, as ADM's evaluator reads them
    DIR/samples.npz            all of them, once the last shard is there

A job that is started again finishes what is missing; batch size and devices may differ, since sample `i` depends on its
index alone.
"""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.core import Refused
from guidance_jax.files import PART, write_whole
from guidance_jax.progress import Bar
from guidance_jax.sharding import not_finite

FORMAT = "guidance_jax samples/1"


class Job:
    """The folder of a job of `n` samples, `shard` a file, described by `about` (JSON: model, kernel, seed, ...).

    Raises:
      Refused: a folder of something else or of another job (the field is named; nothing is written), or one that
        cannot be written to.
    """

    def __init__(self, folder: str | Path, n: int, about: dict[str, Any], shard: int = 500):
        if n < 1 or shard < 1:
            raise Refused(f"a job has at least one sample and one a shard, got n={n}, shard={shard}")
        self.folder, self.n, self.shard = Path(folder), n, shard
        wanted = json.loads(json.dumps({"format": FORMAT, "n": n, "shard": shard, **about}))
        path = self.folder / "manifest.json"
        if path.exists():
            try:
                found = json.loads(path.read_text())
            except ValueError as error:
                raise Refused(f"{path} is damaged ({error}); sample into another folder") from None
            for field in [*wanted, *(k for k in found if k not in wanted)]:
                if found.get(field) != wanted.get(field):
                    raise Refused(
                        f"{folder} belongs to another job ({field}: {found.get(field)!r} there, "
                        f"{wanted.get(field)!r} here); "
                        "sample into another folder"
                    )
        elif self.folder.exists() and any(not p.name.startswith(".") for p in self.folder.iterdir()):
            raise Refused(f"{folder} is not empty and holds no job (no manifest.json); sample into another folder")
        else:
            write_whole(path, lambda file: file.write(json.dumps(wanted, indent=1).encode()))
        for left in self.folder.glob(f"{PART}*"):  # of a run that was killed; a job has one process that writes
            left.unlink(missing_ok=True)

    def path(self, index: int) -> Path:
        """The file of shard `index`."""
        return self.folder / f"shard_{index:05d}.npz"

    def span(self, index: int) -> range:
        """The samples of shard `index`."""
        return range(index * self.shard, min((index + 1) * self.shard, self.n))

    @property
    def shards(self) -> int:
        return -(-self.n // self.shard)

    def missing(self) -> list[int]:
        """The shards that are not there, or not whole."""
        return [i for i in range(self.shards) if not _whole(self.path(i), len(self.span(i)))]

    def run(
        self,
        draw: Callable[[range], tuple[np.ndarray, np.ndarray]],
        encode: Callable[[np.ndarray], np.ndarray] = np.asarray,
        progress: str | None = None,
    ) -> tuple[Path, int]:
        """Draw and write what is missing, then put everything into one file.

        Returns:
          (the file of all samples, how many of those drawn now were not finite).

        Args:
          draw: `draw(indices) -> (samples, labels)`; sample `i` must depend on `i` alone.
          encode: what is written of the samples, `to_uint8` for images.
          progress: the title of a progress bar on standard error; None for none.

        Raises:
          Refused: a disk that is full or a folder that cannot be written to.
        """
        target, missing = self.folder / "samples.npz", self.missing()
        bad, done = 0, self.shards - len(missing)
        with Bar(progress, self.shards, done, "not finite") as advance:
            for index in missing:
                samples, labels = draw(self.span(index))
                bad += not_finite(samples)
                write_arrays(self.path(index), encode(samples), labels)
                done += 1
                advance(done, bad)
        if missing or not _whole(target, self.n):
            parts: dict[str, list] = {"arr_0": [], "arr_1": []}
            for i in range(self.shards):
                with np.load(self.path(i)) as file:
                    for name, kept in parts.items():
                        kept.append(file[name])
            write_arrays(target, np.concatenate(parts["arr_0"]), np.concatenate(parts["arr_1"]))
        return target, bad


def write_arrays(path: Path, samples: np.ndarray, labels: np.ndarray) -> None:
    """One file as ADM's evaluator reads it: `arr_0` samples, `arr_1` labels."""
    write_whole(path, lambda file: np.savez(file, arr_0=samples, arr_1=labels))


def _whole(path: Path, n: int) -> bool:
    """Whether `path` is a complete file of n samples."""
    try:
        with np.load(path) as file:
            return len(file["arr_1"]) == n and len(file["arr_0"]) == n
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return False
