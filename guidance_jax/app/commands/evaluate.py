"""`guidance-jax evaluate`: measure samples with a judge or with the Inception network."""

import json
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.table import Table

from guidance_jax.app.data import load_judge
from guidance_jax.app.options import OtherData, OtherSize
from guidance_jax.app.schema import show
from guidance_jax.app.terminal import COLUMNS, cells, console
from guidance_jax.core import Refused
from guidance_jax.datasets.arrays import read_npz
from guidance_jax.files import check_writable, write_whole
from guidance_jax.metrics.fid import NEEDS, Reference, check_measures, measure_features, protocol
from guidance_jax.metrics.inception import load_inception
from guidance_jax.metrics.shards import extract_features, find_shards
from guidance_jax.places import find_place, local_copy
from guidance_jax.untrusted import file_at, read_json


def evaluate(
    samples: Annotated[str, typer.Option(help="File or folder written by sample, or any .npz with uint8 NHWC arr_0.")],
    models: Annotated[Path | None, typer.Option(help="Folder written by train, whose judge measures.")] = None,
    data: OtherData = None,
    size: OtherSize = None,
    reference: Annotated[
        Path | None, typer.Option(help="Reference batch in ADM's format (.npz), for FID and related measures.")
    ] = None,
    inception: Annotated[Path | None, typer.Option(help="Inception weights (.pth or .safetensors).")] = None,
    measures: Annotated[
        str | None, typer.Option(help="fid,sfid,is,precision,...; by default all that are possible.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the measures.")] = None,
) -> None:
    """Measure samples: against held-out data with a judge (--models), or against a reference batch with the Inception
    network, as ADM does (--reference).

    The held-out data are the fifth of the models' data that train left out, or the same fifth of --data.
    """
    if (models is None) == (reference is None):
        raise Refused("give either --reference FILE.npz (FID and related measures) or --models FOLDER (its judge)")
    for option, value, own in (
        *(("--data", data, "models"), ("--size", size, "models")),
        *(("--inception", inception, "reference"), ("--measures", measures, "reference")),
    ):
        if value is not None and (models if own == "models" else reference) is None:
            raise Refused(f"{option} works only with --{own}; remove it")
    wanted = measures.split(",") if measures is not None else None
    for name in wanted or []:
        if name not in NEEDS:
            raise Refused(f"--measures must be among {', '.join(NEEDS)}, got {show(name)}; write --measures fid,is")
    if out is not None:
        check_writable(out)
    place = find_place(samples)
    if reference is not None and is_job(place):
        record = by_inception(None, None, place, reference, inception, wanted)
        write_record(out, record)
        return
    images, labels = read_samples(place, needs_labels=models is not None)
    if reference is not None:
        record = by_inception(images, labels, place, reference, inception, wanted)
    else:
        assert models is not None
        measure, held_out = load_judge(models, data, size)
        if measure is None or held_out is None:
            raise Refused(f"{models} has no judge; guidance-jax train makes one, or give --reference")
        report = measure(images.astype(np.float32) / 127.5 - 1, labels)
        table = Table(*COLUMNS[:-1], title=f"{report.samples} samples against {len(held_out)} held-out images")
        table.add_row(*cells(report)[:-1])
        console.print(table)
        record = report.json() | {"samples_file": samples, "jax": jax.__version__}
    write_record(out, record)


def write_record(out: Path | None, record: dict[str, Any]) -> None:
    """Write the measures to the file `out`; None writes nothing."""
    if out is not None:
        text = json.dumps(record, indent=1).encode()
        write_whole(out, lambda file: file.write(text))


def is_job(samples: Any) -> bool:
    """Return whether `samples` is the folder of a job, and not one file."""
    return samples.is_dir() and samples.suffix != ".npz"


def read_samples(samples: Any, needs_labels: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read (images, labels) from a file, or from the shards of a job's folder."""
    if not is_job(samples) and samples.suffix != ".npz":
        raise Refused(f"{samples} is not an .npz file; write one with guidance-jax sample")
    found = []
    for path in find_shards(samples) if is_job(samples) else [samples]:
        with local_copy(path) as file:
            found.append(read_npz(file))
    if any("arr_0" not in part for part in found):
        raise Refused(f"{samples} has no samples (entry arr_0); write it with guidance-jax sample")
    if needs_labels and any("arr_1" not in part for part in found):
        raise Refused(f"{samples} has no labels (entry arr_1), which the judge needs; add them")
    images = found[0]["arr_0"] if len(found) == 1 else np.concatenate([part["arr_0"] for part in found])
    check_images(images, samples)
    labels = [part.get("arr_1", np.zeros(len(part["arr_0"]) if part["arr_0"].ndim else 0, np.int32)) for part in found]
    return images, np.concatenate(labels)


def check_images(images: np.ndarray, where: Any) -> None:
    """Raise `Refused` unless `images` is a non-empty batch of uint8 pictures."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise Refused(
            f"{where} holds {images.dtype} of shape {images.shape}; evaluate takes uint8 NHWC images, 0 to 255: "
            "convert images in [-1, 1] by (127.5 * x + 127.5).round().astype(numpy.uint8)"
        )


def by_inception(
    images: np.ndarray | None,
    labels: np.ndarray | None,
    samples: Any,
    path: Path,
    weights: Path | None,
    measures: list[str] | None,
) -> dict[str, Any]:
    """Print and return FID and its like with their protocol. `images` None measures the job in the folder `samples`."""
    file_at(path)
    extractor = load_inception(weights)
    reference = Reference.read(path, extractor)
    check_measures(reference, measures)
    if images is None or labels is None:
        features, labels = extract_features(samples, extractor, lambda part: check_images(part, samples))
    else:
        features = extractor(images)
    found = measure_features(features, reference, measures)
    table = Table(*found, title=f"{len(labels)} samples against {reference.name}")
    table.add_row(*(f"{v:.5g}" for v in found.values()))
    console.print(table)
    for name, why in found.refused.items():
        console.print(f"{name}: {why}", highlight=False, markup=False)
    if found.get("fid_bias", np.nan) == found.get("fid_bias"):
        console.print(
            f"FID of {len(labels)} samples: too large by about {found['fid_bias']:.3g} (fitted); published values use "
            "50,000 samples"
        )
    folder = samples if is_job(samples) else samples.parent
    beside = [samples.with_suffix(".json"), folder / "manifest.json"]
    sampling = None
    for file in (p for p in beside if p.exists()):
        with local_copy(file) as copy:
            sampling = read_json(copy)
        break
    return {"measures": found.json(), "protocol": protocol(reference, extractor, len(labels), labels, sampling)}
