"""`guidance-jax demo | train | convert | sample | evaluate`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError:
    sys.exit('the command line needs typer and rich: pip install "guidance_jax[demo]"')

import jax
import numpy as np

from guidance_jax.app.demos.digits import demo as run_demo
from guidance_jax.app.pictures import save_grid
from guidance_jax.app.request import Request, schedule_of
from guidance_jax.checkpoints.adm import Options
from guidance_jax.checkpoints.convert import converted, schedule_named
from guidance_jax.checkpoints.load import load
from guidance_jax.core import Refused
from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.idx import idx
from guidance_jax.datasets.image_folder import image_folder
from guidance_jax.datasets.images import Images, to_uint8
from guidance_jax.jobs import Job, write_arrays
from guidance_jax.metrics.calibration import by_level
from guidance_jax.metrics.fidelity import Reference, measure_images, protocol
from guidance_jax.metrics.inception import load_inception
from guidance_jax.metrics.report import Report
from guidance_jax.metrics.report import evaluate as measure
from guidance_jax.networks.judge import TrainedJudge
from guidance_jax.sample import keys
from guidance_jax.sharding import generate_on, memory, sample_mesh
from guidance_jax.training.recipe import Recipe
from guidance_jax.training.recipe import train as train_models

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Guidance for diffusion models in JAX.")
# as wide as its tables where nobody looks at a terminal
console = Console(width=None if sys.stdout.isatty() else 120)
Data = Annotated[str, typer.Option(help='"digits", a folder of IDX files, or a folder of images by class.')]
Size = Annotated[int, typer.Option(help="Side that images of a folder are resized to.")]


def read(data: str, size: int) -> Images:
    if data == "digits":
        return digits()
    folder = Path(data)
    if not folder.is_dir():
        raise Refused(f'--data is "digits" or a folder, got {data!r}; write --data digits')
    if not any(folder.glob("*-ubyte*")):
        return image_folder(folder, size)
    images = idx(folder)
    pad = -images.shape[0] % 4, -images.shape[1] % 4
    edges = ((0, 0), *((p // 2, p - p // 2) for p in pad), (0, 0))
    return Images(np.pad(images.images, edges, constant_values=-1), images.labels, images.names)


def cells(report: Report) -> list[str]:
    measures = (report.accuracy, report.diversity, report.frechet, report.precision, report.recall)
    return [*map(str, measures), str(report.not_finite)]


COLUMNS = ("accuracy", "diversity", "Frechet distance", "precision", "recall", "not finite")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, pictures and results.")] = Path("guidance_jax_demo"),
    task: Annotated[str, typer.Option(help="digits, splice (RNA splice sites) or text (film reviews).")] = "digits",
    data: Annotated[
        Path | None, typer.Option(help="Where the file of splice or text lies; errors say how to get it.")
    ] = None,
    samples: Annotated[int, typer.Option(min=20, help="Samples per scale.")] = 150,
    steps: Annotated[int, typer.Option(min=2, help="Solver steps, of the digits.")] = 30,
    quick: Annotated[bool, typer.Option(help="A few training steps: tries the machinery, not the quality.")] = False,
) -> None:
    """Train on real data, guide at several scales and in several ways, print the table; pictures of the digits."""
    others = {"splice": splice_demo, "text": text_demo}
    if task != "digits" and task not in others:
        raise Refused(f"--task is one of digits, {', '.join(others)}, got {task!r}")
    out.mkdir(parents=True, exist_ok=True)
    if task in others:
        others[task](out, data, samples, quick)
        return
    recipe = Recipe(steps=30, classifier_steps=30, judge_steps=60) if quick else Recipe()
    table = Table("algorithm", "scale", *COLUMNS, "s", title="Guided digits, judged by an independent classifier")
    for row in run_demo(out, recipe=recipe, samples=samples, steps=steps):
        table.add_row(row.algorithm, f"{row.scale:g}", *cells(row.report), f"{row.seconds:.1f}")
    console.print(table)
    console.print("score, mean: classifier guidance (Algorithms 2 and 1 of Dhariwal & Nichol); cfg: classifier-free.")
    console.print(
        "Scale 0 is the unconditional model, 1 the conditional one. Frechet distance: judge's features, no FID."
    )
    console.print(f"Pictures: {out}/score.png, mean.png, cfg.png (a row per scale), trade_off.png; {out}/results.json")


def measured(title: str, rows: list[Any]) -> None:
    """The table of a demo on sequences."""
    table = Table("method", "scale", *rows[0].measures, "calls of model + classifier", "s", title=title)
    for row in rows:
        values = (f"{v:.3g}" for v in row.measures.values())
        table.add_row(
            row.method, f"{row.scale:g}", *values, f"{row.model_calls} + {row.classifier_calls}", f"{row.seconds:.1f}"
        )
    console.print(table)


def splice_demo(out: Path, data: Path | None, samples: int, quick: bool) -> None:
    from guidance_jax.app.demos.splice import demo as run

    rows = run(out, data, samples=samples, steps=20 if quick else 1200)
    measured("Guided to the strongest tenth of splice sites, judged by measurement", rows)
    console.print("inclusion: mean measured log10 %; kl: to the true p(x | top tenth), pairs of positions, nats.")
    console.print(f"{out}/splice.json")


def text_demo(out: Path, data: Path | None, samples: int, quick: bool) -> None:
    from guidance_jax.app.demos.text import demo as run

    rows, examples = run(out, data, samples=samples, steps=20 if quick else 500)
    measured("Positive film reviews, judged by a classifier that guided nothing", rows)
    for name, sentences in examples.items():
        console.print(f"{name}: {sentences[0]}", highlight=False, markup=False)
    console.print(f"{out}/text.json")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder for the three checkpoints.")],
    data: Data = "digits",
    size: Size = 32,
    width: Annotated[int, typer.Option(help="Channels of the diffusion model, a multiple of 8.")] = Recipe.width,
    steps: Annotated[int, typer.Option(help="Training steps of the diffusion model.")] = Recipe.steps,
    classifier_steps: Annotated[int, typer.Option()] = Recipe.classifier_steps,
    judge_steps: Annotated[int, typer.Option()] = Recipe.judge_steps,
    batch: Annotated[int, typer.Option()] = Recipe.batch,
    label_dropout: Annotated[float, typer.Option(min=0.0, max=1.0)] = Recipe.label_dropout,
    seed: Annotated[int, typer.Option()] = Recipe.seed,
) -> None:
    """Train a diffusion model, a noisy classifier and a judge; resume if interrupted. A fifth is held out."""
    recipe = Recipe(
        width=width,
        steps=steps,
        classifier_steps=classifier_steps,
        judge_steps=judge_steps,
        batch=batch,
        label_dropout=label_dropout,
        seed=seed,
    )
    seen, held_out = read(data, size).split()
    model, classifier, judge = train_models(out, seen, recipe, progress=True)
    correct = judge(held_out.images)[0] == held_out.labels
    console.print(f"judge: {np.mean(correct):.1%} of {len(held_out)} held-out images")
    columns = ("sigma / alpha", "accuracy", "loss (nats)", "calibration error", "roughness", "suggested scale")
    table = Table(*columns, title="Noisy classifier, held out")
    for level in by_level(classifier, held_out, schedule_of(model)):
        table.add_row(
            f"{level.ratio:g}",
            *(f"{v:.3f}" for v in (level.accuracy, level.loss, level.calibration_error)),
            f"{level.roughness:.2f}",
            f"{level.scale:.2f}",
        )
    console.print(table)
    console.print(f"Next: guidance-jax sample --models {out} --out samples.npz")


@app.command()
def convert(
    files: Annotated[
        list[Path], typer.Argument(help="A .pt or .safetensors state dict of OpenAI's, or a checkpoint folder of ours.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for models: out/denoiser, out/classifier.")],
    to: Annotated[str, typer.Option(help="safetensors or orbax.")] = "safetensors",
    image_size: Annotated[int | None, typer.Option(min=1, help="Side of the images.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine or linear, of 1000 steps.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads.")] = None,
    head_channels: Annotated[int | None, typer.Option(min=1, help="Channels of an attention head.")] = None,
    new_attention_order: Annotated[
        bool | None, typer.Option("--new-attention-order/--old-attention-order", help="As the network was trained.")
    ] = None,
) -> None:
    """Convert checkpoints of guided-diffusion, GLIDE and EDM. Tensors tell the architecture; no code of a file runs.

    The options say what tensors do not, and are needed only for networks that are none of OpenAI's releases.
    """
    known = Options(image_size, schedule_named(schedule), heads, head_channels, new_attention_order)
    for file in files:
        name, network, domain = converted(file, out, to, known)
        what = f"{type(network).__name__}, {domain}"
        console.print(f"{file} -> {out / name}: {what}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Next: guidance-jax sample --models {out} --out samples.npz")


@app.command()
def sample(
    models: Annotated[Path, typer.Option(help="Folder written by train or convert.")],
    out: Annotated[
        Path, typer.Option(help="An .npz file (arr_0 uint8 NHWC, labels arr_1), or a folder for a long job.")
    ],
    n: Annotated[int, typer.Option("--n", min=1)] = 100,
    scale: Annotated[float, typer.Option(help="0 unconditional, 1 conditional.")] = 2.0,
    algorithm: Annotated[str, typer.Option(help="score, mean (classifier guidance), cfg or plain.")] = "score",
    label: Annotated[int | None, typer.Option(help="One class; by default all in turn.")] = None,
    steps: Annotated[str, typer.Option(help='A number, or OpenAI\'s respacing, such as "ddim25".')] = "50",
    dtype: Annotated[str | None, typer.Option(help="bfloat16: networks compute in it, guidance in float32.")] = None,
    remat: Annotated[bool, typer.Option(help="Compute blocks again in gradients: less memory.")] = False,
    microbatch: Annotated[int | None, typer.Option(min=1, help="Samples a classifier gradient is taken of.")] = None,
    split: Annotated[bool, typer.Option(help="Split large parameters over the devices too.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time; does not change them.")] = 250,
    seed: Annotated[int, typer.Option()] = 0,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Devices to split the samples over; by default all.")
    ] = None,
    shard: Annotated[int, typer.Option(min=1, help="Samples a file of a long job.")] = 500,
) -> None:
    """Draw guided samples; write them as ADM's evaluator reads them, and a picture beside.

    Into a folder, the job may be killed at any instant and started again, with another batch size or number of devices.
    """
    if out.suffix and out.suffix != ".npz":
        raise Refused(f"--out is an .npz file or a folder, got {out}; write --out {out.with_suffix('.npz')}")
    request = Request(str(models), algorithm, scale, label, steps, seed, dtype)
    kernel, levels, shape, labels, classes = request.plan(n, remat=remat, microbatch=microbatch)
    mesh, batch = sample_mesh(devices), min(batch, n)
    first = keys(seed, batch), kernel, levels, shape, np.resize(labels, batch)
    console.print(f"memory: {memory(mesh, *first, split=split)}")

    def draw(indices: range) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for i in range(indices.start, indices.stop, batch):
            # the last batch is filled up and cut, so that there is one program
            own = np.resize(labels[i : min(i + batch, indices.stop)], batch)
            one = generate_on(mesh, keys(seed, batch, start=i), kernel, levels, shape, own, split=split)
            parts.append(one[: indices.stop - i])
        return np.concatenate(parts), labels[indices.start : indices.stop]

    if not out.suffix:
        job = Job(out, n, request.about(), shard)
        path, bad = job.run(draw, to_uint8, progress="sampling")
        console.print(f"{n} samples, {bad} of those drawn now not finite: {path}")
        return
    images, _ = draw(range(n))
    bad = int((~np.isfinite(images.reshape(n, -1)).all(1)).sum())
    write_arrays(out, to_uint8(images), labels)
    out.with_suffix(".json").write_text(json.dumps({"n": n, **request.about()}, indent=1))
    columns = classes if classes is not None and 5 <= classes <= 20 and label is None else 10
    save_grid(out.with_suffix(".png"), images[:100], columns=columns)
    console.print(f"{n} samples, {bad} not finite: {out}, {out.with_suffix('.png')}")


@app.command()
def evaluate(
    samples: Annotated[Path, typer.Option(help="File written by sample, or any .npz with uint8 NHWC arr_0.")],
    models: Annotated[Path | None, typer.Option(help="Folder written by train: its judge measures.")] = None,
    data: Data = "digits",
    size: Size = 32,
    reference: Annotated[Path | None, typer.Option(help="A reference batch of ADM's (.npz): FID and its like.")] = None,
    inception: Annotated[Path | None, typer.Option(help="Inception weights (.pth or .safetensors).")] = None,
    measures: Annotated[str | None, typer.Option(help="fid,sfid,is,precision,...; by default all possible.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the measures.")] = None,
) -> None:
    """Measure samples, against held-out data by a judge, or against a reference batch by Inception, as ADM does."""
    if (models is None) == (reference is None):
        raise Refused("give --reference FILE.npz (FID and its like) or --models FOLDER (its judge), one of the two")
    try:
        with np.load(samples) as file:
            images = file["arr_0"]
            labels = file["arr_1"] if "arr_1" in file.files else np.zeros(len(images), np.int32)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise Refused(f"{samples} is not a sample file ({error}); write one with guidance-jax sample") from None
    if reference is not None:
        record = by_inception(images, labels, samples, reference, inception, measures)
    else:
        assert models is not None
        _, held_out = read(data, size).split()
        report = measure(images.astype(np.float32) / 127.5 - 1, labels, held_out, load(models / "judge", TrainedJudge))
        table = Table(*COLUMNS[:-1], title=f"{report.samples} samples against {len(held_out)} held-out images")
        table.add_row(*cells(report)[:-1])
        console.print(table)
        record = report.json() | {"samples_file": str(samples), "jax": jax.__version__}
    if out is not None:
        out.write_text(json.dumps(record, indent=1))


def by_inception(
    images: np.ndarray, labels: np.ndarray, samples: Path, path: Path, weights: Path | None, measures: str | None
) -> dict[str, Any]:
    """Print and return FID and its like, with their protocol."""
    extractor = load_inception(weights)
    reference = Reference.read(path, extractor)
    found = measure_images(images, reference, extractor, measures.split(",") if measures else None)
    table = Table(*found, title=f"{len(images)} samples against {reference.name}")
    table.add_row(*(f"{v:.5g}" for v in found.values()))
    console.print(table)
    if "fid_bias" in found:
        console.print(
            f"FID of {len(images)} samples: too large by about {found['fid_bias']:.3g} (fitted); "
            "published ones are of 50,000"
        )
    beside = [samples.with_suffix(".json"), samples.parent / "manifest.json"]
    sampling = next((json.loads(p.read_text()) for p in beside if p.exists()), None)
    return {"measures": found, "protocol": protocol(reference, extractor, len(images), labels, sampling)}


def main() -> None:
    """Entry point: errors of use are one line and exit code 2; compiled programs are kept between calls."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "guidance_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    try:
        app(standalone_mode=True)
    except Refused as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
