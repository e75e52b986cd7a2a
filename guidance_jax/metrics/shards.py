"""Compute features of a job's folder shard by shard: one shard is in memory at a time, and features are stored.

    DIR/features/HASH_00000.npz        the features of shard 0 by the network whose name has this hash

Each file contains the seal of its shard, so that features of replaced shards are computed again. Several processes may
measure one folder; each claims the shard that it measures.
"""

import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from guidance_jax.claims import Claims
from guidance_jax.core import Refused
from guidance_jax.datasets.arrays import read_npz
from guidance_jax.files import content_hash, write_whole
from guidance_jax.jobs import SEAL, shard_file
from guidance_jax.metrics.inception_network import InceptionFeatures
from guidance_jax.places import find_place, local_copy, open_arrays
from guidance_jax.untrusted import read_json


def find_shards(folder: Any) -> list[Any]:
    """Return the paths of all shards of a finished job in `folder`.

    Raises:
      Refused: a folder without a job, or with shards that are missing.
    """
    if not (folder / "manifest.json").is_file():
        raise Refused(f"{folder} holds no job (no manifest.json); give a folder or an .npz of guidance-jax sample")
    with local_copy(folder / "manifest.json") as file:
        manifest = read_json(file)
    n, shard = (manifest.get(name) for name in ("n", "shard"))
    if not (isinstance(n, int) and isinstance(shard, int) and n > 0 and shard > 0):
        raise Refused(f"{folder / 'manifest.json'} is damaged: it has no n and shard")
    paths = [shard_file(folder, i) for i in range(-(-n // shard))]
    missing = sum(not path.is_file() for path in paths)
    if missing:
        raise Refused(
            f"{missing} of {len(paths)} shards of {folder} are missing; run the same guidance-jax sample again"
        )
    return paths


def extract_features(
    folder: Any, extractor: Any, check: Callable[[np.ndarray], None] | None = None
) -> tuple[InceptionFeatures, np.ndarray]:
    """Return (features, labels) of all samples of a job's `folder`, in their order.

    If every shard has at least 50 images, the network's batch size, the features are the same as those of one file with
    all samples.

    Args:
      folder: a folder on a disk or in an object store, written by `jobs.Job`.
      extractor: a function uint8 images -> `InceptionFeatures` with a field `name`, such as `InceptionExtractor`.
      check: check(images) raises `Refused` for images that cannot be measured; None checks nothing.

    Raises:
      Refused: an unfinished job, a damaged shard.
    """
    folder = find_place(folder)
    paths = find_shards(folder)
    own = content_hash(extractor.name)[:12]
    found: dict[int, tuple[InceptionFeatures, np.ndarray]] = {}
    with Claims(folder).touching() as claims:

        def attempt(index: int) -> tuple[InceptionFeatures, np.ndarray] | None:
            path, claim = paths[index], f"features-{own}-{index:05d}"
            stored = folder / "features" / f"{own}_{index:05d}.npz"
            kept = _read(stored, path)
            if kept is None and claims.take(claim):
                with local_copy(path) as file:
                    kept = _measure(read_npz(file), path, stored, extractor, check)
                claims.release(claim)
            return kept

        found.update(claims.work_through(range(len(paths)), attempt))
    every = [found[i] for i in range(len(paths))]
    features = InceptionFeatures(*(np.concatenate(part) for part in zip(*(f for f, _ in every), strict=True)))
    return features, np.concatenate([labels for _, labels in every])


def _measure(shard: Any, path: Any, stored: Any, extractor: Any, check: Callable | None) -> tuple:
    """Compute the features of one shard, write them to `stored`, and return (features, labels)."""
    if "arr_0" not in shard or "arr_1" not in shard or SEAL not in shard:
        raise Refused(f"{path} is not a shard of a job; run the same guidance-jax sample again")
    if check is not None:
        check(shard["arr_0"])
    features, labels = extractor(shard["arr_0"]), shard["arr_1"]
    arrays = {**features._asdict(), "labels": labels, SEAL: np.asarray(str(shard[SEAL]))}
    write_whole(stored, lambda file: np.savez(file, **arrays))
    return features, labels


def _read(stored: Any, path: Any) -> tuple | None:
    """Return the stored (features, labels) of the shard at `path`; None if there are none, or of another shard."""
    try:
        with open_arrays(stored) as file, open_arrays(path) as shard:
            if str(file[SEAL]) != str(shard[SEAL]):
                return None
            return InceptionFeatures(*(file[name] for name in InceptionFeatures._fields)), file["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
