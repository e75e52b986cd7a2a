"""Long sampling jobs that may be killed at any instant: shards on disk, each written whole or not at all.

    DIR/manifest.json          what the job is: n, samples a shard, and everything that decides the samples
    DIR/shard_00000.npz        arr_0 samples, arr_1 labels, as ADM's evaluator reads them, and a seal
    DIR/samples.npz            all of them, once the last shard is there

A job that is started again finishes what is missing; batch size and devices may differ, since sample `i` depends on its
index alone. Several processes, on as many machines, may work on one folder: each claims the shard that it draws. A seal
is a hash of a shard's arrays, its index and the manifest: a shard that is damaged, changed, or of another job or place
is drawn again.
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
ALL = -1  # the index of the file of all samples, in its seal


class Job:
    """The folder of a job of `n` samples, `shard` a file, described by `about` (JSON: model, kernel, seed, ...).

    Args:
      folder: on a disk, or in an object store ("gs://bucket/job"), with fsspec's package for it.
      n, about, shard: as above.
      content: hashes of what decides the samples, by name, as `content_hash` makes them: weights, a classifier, a
        measurement. A name says where something lies; its hash says that it is still the same.

    Raises:
      Refused: a folder of something else or of another job (the field is named; nothing is written), or one that
        cannot be written to.
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
            raise Refused(f"a job has at least one sample and one a shard, got n={n}, shard={shard}")
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
        try:  # also where it was just written: another process may have begun another job there
            found = json.loads(path.read_text())
            if not isinstance(found, dict):
                raise ValueError("it is no table")
        except (OSError, ValueError) as error:
            raise Refused(f"{path} is damaged ({error}); sample into another folder") from None
        if found.get("format") == FORMAT and content is not None:
            field = different(found.get("content") or {}, wanted["content"])
            if field is not None:
                raise Refused(
                    f"{field} has changed since {folder} was begun; restore it, or sample into another folder"
                )
        field = different(found, wanted)
        if field is not None:
            raise Refused(
                f"{folder} belongs to another job ({field}: {found.get(field)!r} there, {wanted.get(field)!r} here); "
                "sample into another folder"
            )
        sweep(self.folder)

    def path(self, index: int) -> Any:
        """The file of shard `index`."""
        return shard_file(self.folder, index)

    def span(self, index: int) -> range:
        """The samples of shard `index`."""
        return range(index * self.shard, min((index + 1) * self.shard, self.n))

    @property
    def shards(self) -> int:
        return -(-self.n // self.shard)

    def missing(self) -> list[int]:
        """The shards that are not there, or not as this job wrote them."""
        return [i for i in range(self.shards) if self.read(self.path(i), i) is None]

    def seal(self, index: int, samples: np.ndarray, labels: np.ndarray) -> str:
        """What only these arrays have, as shard `index` of this job."""
        return content_hash({"job": self.identity, "shard": index, "samples": samples, "labels": labels})

    def write(self, path: Any, index: int, samples: np.ndarray, labels: np.ndarray) -> None:
        """Write one file with its seal."""
        samples, labels = np.asarray(samples), np.asarray(labels)
        write_arrays(path, samples, labels, **{SEAL: np.asarray(self.seal(index, samples, labels))})

    def read(self, path: Any, index: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(samples, labels) of a file, or None: not there, damaged, changed, another job's or in another's place."""
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
        """Draw and write what is missing and nobody else is drawing, wait for the others, put all into one file.

        Returns:
          (the file of all samples or, without `collect`, the folder; how many of those drawn here were not finite).

        Args:
          draw: `draw(indices) -> (samples, labels)`; sample `i` must depend on `i` alone.
          encode: what is written of the samples, `to_uint8` for images.
          progress: the title of a progress bar on standard error; None for none.
          worker: (k, n): this is worker k of n, and begins with every n-th shard. It then takes what is left, also of
            workers that died.
          collect: write `samples.npz`, shard by shard: the memory it takes does not grow with the job.
          expires: seconds without a sign of life after which another's shard is drawn here.
          team: of processes that run one program and together are one worker. They draw as many shards at a time as
            they are, `draw` is asked for all of those samples and returns what this process has of them, the shard of
            its rank, and each process writes its own.

        Raises:
          Refused: a disk that is full or a folder that cannot be written to.
        """
        if team.rank > 0:
            return self.folder, self._follow(team, draw, encode)
        missing = self.missing()
        strange = sum(self.path(index).exists() for index in missing)
        if strange and progress is not None:
            print(f"{strange} shards are damaged or not of this job: drawn again", file=sys.stderr, flush=True)
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
        team.say(ALL)  # the others end last: one that ends early ends the whole program
        return target, bad

    def _draw(self, first: int, draw: Callable, encode: Callable, claims: Claims, team: Team) -> int | None:
        """How many samples were not finite of the shards from `first` on, one for each process of the team.

        0 if another worker has drawn them, None if it is drawing them.
        """
        name, own = f"{first:05d}", range(first, min(first + team.size, self.shards))

        def done() -> bool:
            return all(self.path(i).exists() and self.read(self.path(i), i) is not None for i in own)

        if done():
            return 0
        if not claims.take(name):
            return None
        try:
            if done():  # finished between the look and the claim
                return 0
            team.say(first)
            return team.add(self._draw_one(first, draw, encode, team))  # all have written then
        finally:
            claims.release(name)

    def _draw_one(self, first: int, draw: Callable, encode: Callable, team: Team) -> int:
        """Draw with the whole team the shards from `first` on, write that of this process."""
        index = first + team.rank
        asked = own = self.span(index)
        if team.size > 1:  # as many for each process, also where the job ends
            asked = range(first * self.shard, (first + team.size) * self.shard)
        samples, labels = draw(asked)
        if team.size > 1:
            samples, labels = samples[: len(own)], labels[: len(own)]
        if not len(samples) == len(labels) == len(own):
            raise Refused(
                f"draw was asked for {len(own)} samples, got {len(samples)} and {len(labels)} labels; return one of "
                "each for every index"
            )
        if not len(own):  # the job ends before this process's part
            return 0
        if team.size > 1 and self.read(self.path(index), index) is not None:  # its neighbour was missing
            return 0
        self.write(self.path(index), index, encode(samples), labels)
        return count_failed(samples)

    def _follow(self, team: Team, draw: Callable, encode: Callable) -> int:
        """Draw what the first process of the team says, until it has nothing left: how many were not finite."""
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
        """The seal of the file of all samples, from those of the shards."""
        return content_hash({"job": self.identity, "shard": ALL, "seals": "".join(seals)})

    def _is_collected(self, target: Any) -> bool:
        """Whether the file of all samples is this job's and undamaged, by reading it a shard at a time."""
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
    """Where shard `index` of the job in `folder` is."""
    return folder / f"shard_{index:05d}.npz"


def contents(models: str | Path, **others: Any) -> dict[str, str]:
    """The hash of every part of a folder of models, and of what else decides samples: the `content` of a `Job`.

    A part is a sub-folder with a configuration (`config.json`, `scheduler_config.json`, ...), or the file that names
    the parts of a pipeline. The judge is left out: it decides no sample.

    Args:
      others: files or arrays by name, such as measurement="y.npy"; None is left out.
    """
    folder = Path(models)
    parts = [path for path in sorted(folder.iterdir()) if path.name != "judge" and any(path.glob("*config.json"))]
    parts += [folder / name for name in ("model_index.json", "pipeline.json") if (folder / name).is_file()]
    hashes = {path.name: content_hash(path) for path in parts}
    given = {name: Path(what) if isinstance(what, str) else what for name, what in others.items() if what is not None}
    return hashes | {name: content_hash(what) for name, what in given.items()}


def different(a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The first field in which two tables differ.

    Args:
      a, b: mappings of names to values.
    """
    return next((name for name in [*b, *(name for name in a if name not in b)] if a.get(name) != b.get(name)), None)


def write_arrays(path: Any, samples: np.ndarray, labels: np.ndarray, **beside: np.ndarray) -> None:
    """One file as ADM's evaluator reads it: `arr_0` samples, `arr_1` labels; and what else is to be in it.

    Args:
      path: of the `.npz`.
      samples, labels: its `arr_0` and `arr_1`.
      beside: further arrays by name.
    """
    arrays: dict[str, Any] = {"arr_0": samples, "arr_1": labels, **beside}
    write_whole(path, lambda file: np.savez(file, **arrays))
