"""Long sampling jobs that may be killed at any time: shards of samples, each written completely or not at all.

    DIR/manifest.json          the job: n, samples per shard, and everything that determines the samples
    DIR/shard_00000.npz        arr_0 samples, arr_1 labels, as ADM's evaluator reads them, and a seal
    DIR/samples.npz            all samples, written after the last shard

A job that is started again draws the missing shards. Batch size and devices may differ, since sample `i` depends only
on its index. Several processes, on one machine or many, may work on one folder: each claims the shard that it draws. A
seal is a hash of a shard's arrays, its index and the manifest. A shard that is damaged, changed, or from another job or
index is drawn again.
"""

import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.claims import EXPIRES, Claims
from guidance_jax.core import Refused, count_failed
from guidance_jax.files import content_hash, interruptible, sweep, write_whole
from guidance_jax.places import find_place, open_arrays
from guidance_jax.progress import Bar
from guidance_jax.sharding import Team

FORMAT = "guidance_jax samples/2"
SEAL = "seal"  # the name of the seal among the arrays of a file
ALL = -1  # in a seal, the index of the file of all samples; in a team, the end of the work


class Job:
    """Draw `n` samples into a folder, in shards, and go on after interruptions.

    Args:
      folder: a folder on a disk, or in an object store ("gs://bucket/job"), which needs fsspec's package for it.
      n: the number of samples.
      about: a description of the job, as JSON: model, kernel, seed, ...
      shard: the number of samples per file.
      content: hashes by name of what determines the samples (weights, a classifier, a measurement), as `contents`
        makes them. A hash shows that what a name means is still the same. None for a job without hashes.

    Raises:
      Refused: a folder that holds something else or another job (the error names the field; nothing is written), or
        that cannot be written to.
    """

    def __init__(
        self,
        folder: Any,
        n: int,
        about: dict[str, Any],
        shard: int = 500,
        content: Mapping[str, str] | None = None,
    ):
        if n < 1 or shard < 1:
            raise Refused(
                f"a job needs at least one sample, and at least one sample per shard, got n={n}, shard={shard}"
            )
        self.folder, self.n, self.shard = find_place(folder), n, shard
        own = {"format": FORMAT, "n": n, "shard": shard, **about}
        wanted = json.loads(json.dumps(own if content is None else own | {"content": dict(content)}))
        self.identity = content_hash(json.dumps(wanted, sort_keys=True))
        path = self.folder / "manifest.json"
        if not path.exists():
            strange = self.folder.exists() and any(not p.name.startswith(".") for p in self.folder.iterdir())
            if strange and not path.exists():  # not begun by another process meanwhile
                raise Refused(f"{folder} is not empty and holds no job (no manifest.json); sample into another folder")
            write_whole(path, lambda file: file.write(json.dumps(wanted, indent=1).encode()))
        try:  # also if it was just written: another process may have begun another job there
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError("it is not a JSON object")
        except (OSError, ValueError) as error:
            raise Refused(f"{path} is damaged ({error}); sample into another folder") from None
        if found.get("format") == FORMAT and content is not None:
            field = different(found.get("content") or {}, wanted["content"])
            if field is not None:
                raise Refused(
                    f"{field} has changed since the job in {folder} was started; restore it, or sample into another "
                    "folder"
                )
        field = different(found, wanted)
        if field is not None:
            raise Refused(
                f"{folder} belongs to another job ({field}: {found.get(field)!r} there, {wanted.get(field)!r} here); "
                "sample into another folder"
            )
        sweep(self.folder)

    def path(self, index: int) -> Any:
        """Return the file of shard `index`."""
        return shard_file(self.folder, index)

    def span(self, index: int) -> range:
        """Return the indices of the samples of shard `index`."""
        return range(index * self.shard, min((index + 1) * self.shard, self.n))

    @property
    def shards(self) -> int:
        return -(-self.n // self.shard)

    def missing(self) -> list[int]:
        """Return the shards that are missing, or are not as this job wrote them."""
        return [i for i in range(self.shards) if self.read(self.path(i), i) is None]

    def seal(self, index: int, samples: np.ndarray, labels: np.ndarray) -> str:
        """Return the hash of these arrays as shard `index` of this job."""
        return content_hash({"job": self.identity, "shard": index, "samples": samples, "labels": labels})

    def write(self, path: Any, index: int, samples: np.ndarray, labels: np.ndarray) -> None:
        """Write one file with its seal."""
        samples, labels = np.asarray(samples), np.asarray(labels)
        write_arrays(path, samples, labels, **{SEAL: np.asarray(self.seal(index, samples, labels))})

    def read(self, path: Any, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (samples, labels) of a file; None if it is missing, damaged, changed, or of another job or index."""
        try:
            with open_arrays(path) as file:
                samples, labels, seal = file["arr_0"], file["arr_1"], str(file[SEAL])
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            return None
        return (samples, labels) if seal == self.seal(index, samples, labels) else None

    def run(
        self,
        draw: Callable[[range], tuple[np.ndarray, np.ndarray]],
        encode: Callable[[np.ndarray], np.ndarray] = np.asarray,
        progress: str | None = None,
        worker: tuple[int, int] = (0, 1),
        collect: bool = True,
        expires: float = EXPIRES,
        team: Team = Team(),  # noqa: B008  it is frozen
    ) -> tuple[Any, int]:
        """Draw the missing shards that nobody else is drawing, wait for the others, and write all samples to one file.

        Returns:
          (the file of all samples or, without `collect`, the folder; how many samples drawn here failed, by
          `count_failed`).

        Args:
          draw: `draw(indices) -> (samples, labels)`; sample `i` must depend on `i` alone.
          encode: a function of the samples whose result is written, `to_uint8` for images.
          progress: the title of a progress bar on standard error; None for no bar.
          worker: (k, n) for worker k of n. It begins with every n-th shard, and then takes the remaining ones, also
            those of workers that died.
          collect: whether to write `samples.npz`, shard by shard: its memory does not grow with the job.
          expires: the seconds without a sign of life after which another worker's shard is drawn here.
          team: the processes that run one program and are one worker together. They draw one shard per process at a
            time. `draw` gets the indices of all these shards, and returns the samples of this process, which are the
            shard of its rank. Each process writes its own shard.

        Raises:
          Refused: a disk that is full or a folder that cannot be written to.
        """
        if team.rank > 0:
            return self.folder, self._follow(team, draw, encode)
        missing = self.missing()
        strange = sum(self.path(index).exists() for index in missing)
        if strange and progress is not None:
            print(f"{strange} damaged or foreign shards are drawn again", file=sys.stderr, flush=True)
        number, of = worker
        size = team.size
        todo = sorted({i - i % size for i in missing}, key=lambda i: ((i // size - number) % of, i))
        bad, before = 0, self.shards - len(missing)
        with (
            interruptible(),
            Claims(self.folder, expires).touching() as claims,
            Bar(progress, self.shards, before, "not finite") as advance,
        ):

            def attempt(first: int) -> int | None:
                return self._draw(first, draw, encode, claims, team)

            for done, (_, found) in enumerate(claims.work_through(todo, attempt), 1):
                bad += found
                advance(min(before + done * size, self.shards), bad)
        target = self.folder / "samples.npz" if collect else self.folder
        if collect and (missing or not self._is_collected(target)):
            self._collect(target)
        team.say(ALL)  # until here the others wait: one that ends early ends the whole program
        return target, bad

    def _draw(self, first: int, draw: Callable, encode: Callable, claims: Claims, team: Team) -> int | None:
        """Draw the shards from `first` on, one per process of the team, and return how many samples failed.

        Return 0 if another worker has drawn them, None if it is drawing them.
        """
        name, own = f"{first:05d}", range(first, min(first + team.size, self.shards))

        def done() -> bool:
            return all(self.path(i).exists() and self.read(self.path(i), i) is not None for i in own)

        if done():
            return 0
        if not claims.take(name):
            return None
        try:
            if done():  # another worker finished them before the claim
                return 0
            team.say(first)
            return team.add(self._draw_one(first, draw, encode, team))  # it waits until all have written
        finally:
            claims.release(name)

    def _draw_one(self, first: int, draw: Callable, encode: Callable, team: Team) -> int:
        """Draw with the whole team the shards from `first` on, write that of this process, and count its failures."""
        index = first + team.rank
        asked = own = self.span(index)
        if team.size > 1:  # as many for each process, also at the end of the job
            asked = range(first * self.shard, (first + team.size) * self.shard)
        samples, labels = draw(asked)
        if team.size > 1:
            samples, labels = samples[: len(own)], labels[: len(own)]
        if not len(samples) == len(labels) == len(own):
            raise Refused(
                f"draw was called for {len(own)} samples, got {len(samples)} and {len(labels)} labels; return one of "
                "each for every index"
            )
        if not len(own):  # the job ends before this process's part
            return 0
        if team.size > 1 and self.read(self.path(index), index) is not None:  # only others were missing
            return 0
        self.write(self.path(index), index, encode(samples), labels)
        return count_failed(samples)

    def _follow(self, team: Team, draw: Callable, encode: Callable) -> int:
        """Draw the shards that the first process of the team names, until its end, and return how many failed."""
        bad = 0
        while (first := team.say()) != ALL:
            bad += team.add(self._draw_one(first, draw, encode, team))
        return bad

    def _collect(self, target: Any) -> None:
        """Write the file of all samples from the shards, one in memory at a time."""

        def fill(file: Any) -> None:
            labels, seals = [], []
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
                with archive.open("arr_0.npy", "w", force_zip64=True) as member:
                    for index in range(self.shards):
                        found = self.read(self.path(index), index)
                        if found is None:
                            raise Refused(
                                f"{self.path(index)} was changed by another process; run the same command again"
                            )
                        samples, own = found
                        if index == 0:
                            header: dict[str, Any] = {"shape": (self.n, *samples.shape[1:]), "fortran_order": False}
                            header["descr"] = np.lib.format.dtype_to_descr(samples.dtype)
                            np.lib.format.write_array_header_2_0(member, header)
                        member.write(np.ascontiguousarray(samples).tobytes())
                        labels.append(own)
                        seals.append(self.seal(index, samples, own))
                for name, array in (("arr_1", np.concatenate(labels)), (SEAL, np.asarray(self._seal_of(seals)))):
                    with archive.open(f"{name}.npy", "w") as member:
                        np.lib.format.write_array(member, array)

        write_whole(target, fill)

    def _seal_of(self, seals: list[str]) -> str:
        """Return the seal of the file of all samples, from those of the shards."""
        return content_hash({"job": self.identity, "shard": ALL, "seals": "".join(seals)})

    def _is_collected(self, target: Any) -> bool:
        """Return whether the file of all samples is this job's and undamaged. One shard is in memory at a time."""
        try:
            with target.open("rb") as raw, np.load(raw) as file:
                labels, seal = file["arr_1"], str(file[SEAL])
            with target.open("rb") as raw, zipfile.ZipFile(raw) as archive, archive.open("arr_0.npy") as member:
                np.lib.format.read_magic(member)
                shape, _, kind = np.lib.format.read_array_header_2_0(member)
                size = kind.itemsize * int(np.prod(shape[1:]))
                seals = []
                for index in range(self.shards):
                    span = self.span(index)
                    samples = np.frombuffer(member.read(size * len(span)), kind).reshape(len(span), *shape[1:])
                    seals.append(self.seal(index, samples, labels[span.start : span.stop]))
                return len(labels) == shape[0] == self.n and not member.read(1) and seal == self._seal_of(seals)
        except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            return False


def shard_file(folder: Any, index: int) -> Any:
    """Return the file of shard `index` of the job in `folder`."""
    return folder / f"shard_{index:05d}.npz"


def contents(models: str | Path, **others: Any) -> dict[str, str]:
    """Return hashes of the parts of a folder `models`, and of other inputs of the samples: the `content` of a `Job`.

    A part is a sub-folder with a configuration (`config.json`, `scheduler_config.json`, ...), or the file that names
    the parts of a pipeline. The judge is left out, since no sample depends on it.

    Args:
      models: the folder.
      others: files or arrays by name, such as measurement="y.npy"; None is left out.
    """
    folder = Path(models)
    parts = [path for path in sorted(folder.iterdir()) if path.name != "judge" and any(path.glob("*config.json"))]
    parts += [folder / name for name in ("model_index.json", "pipeline.json") if (folder / name).is_file()]
    hashes = {path.name: content_hash(path) for path in parts}
    given = {name: Path(what) if isinstance(what, str) else what for name, what in others.items() if what is not None}
    return hashes | {name: content_hash(what) for name, what in given.items()}


def different(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """Return the first field in which two tables differ; None if they are equal.

    Args:
      a, b: a mapping of names to values.
    """
    return next((name for name in [*b, *(name for name in a if name not in b)] if a.get(name) != b.get(name)), None)


def write_arrays(path: Any, samples: np.ndarray, labels: np.ndarray, **beside: np.ndarray) -> None:
    """Write one file as ADM's evaluator reads it, with `arr_0` the samples, `arr_1` the labels, and further arrays.

    Args:
      path: the `.npz` file.
      samples: its `arr_0`.
      labels: its `arr_1`.
      beside: further arrays by name.
    """
    arrays: dict[str, Any] = {"arr_0": samples, "arr_1": labels, **beside}
    write_whole(path, lambda file: np.savez(file, **arrays))
