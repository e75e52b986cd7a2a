"""`guidance-jax demo | train | convert | methods | sample | compare | evaluate`."""

import dataclasses
import inspect
import json
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except ModuleNotFoundError:
    sys.exit('the command line needs typer and rich: pip install "guidance_jax[demo]"')

INTERRUPTED = "interrupted: what was saved is kept, and the same command goes on from there"
try:  # they take seconds, in which somebody may think better of it
    import jax
    import numpy as np

    import guidance_jax
    from guidance_jax.app import parts
    from guidance_jax.app.compare import check_any, compare_all, every_method, half_measurement, inverse, track, write
    from guidance_jax.app.data import classes_of, load_judge, read_data, remember
    from guidance_jax.app.demo import demo as run_demo
    from guidance_jax.app.models import schedule_of
    from guidance_jax.app.plan import plan
    from guidance_jax.app.recipe import PRESETS, step_memory
    from guidance_jax.app.recipe import train as train_models
    from guidance_jax.app.request import NONE, read_request
    from guidance_jax.app.schema import COUNTS, RECIPE, REQUEST, SAMPLES, SIDE, STEPS, Settings, check, flag_of, show
    from guidance_jax.app.watch import draw_progress
    from guidance_jax.core import Refused, count_failed
    from guidance_jax.datasets.arrays import read_npz
    from guidance_jax.files import cache, check_writable, interruptible, write_whole
    from guidance_jax.jobs import Job, contents, write_arrays
    from guidance_jax.methods import OPERATORS, PARTS, SCALES, SOLVERS, Row
    from guidance_jax.metrics.bootstrap import Estimate
    from guidance_jax.metrics.calibration import by_level
    from guidance_jax.metrics.fid import NEEDS, Reference, measure_images, protocol
    from guidance_jax.metrics.inception import load_inception
    from guidance_jax.metrics.report import Report
    from guidance_jax.pictures import contact_sheet, from_uint8, to_uint8
    from guidance_jax.sample import keys
    from guidance_jax.schedules import GRIDS
    from guidance_jax.sharding import memory, sample_mesh
    from guidance_jax.untrusted import file_at, read_json
    from guidance_jax.zoo.convert import convert as convert_files
    from guidance_jax.zoo.convert import schedule_named
    from guidance_jax.zoo.state_dict import Options
except KeyboardInterrupt:
    print(INTERRUPTED, file=sys.stderr)
    sys.exit(130)

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Guidance for diffusion models in JAX.")


USAGE = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
LINE = 2000  # characters of a message


def command(panel: str) -> Callable[[Callable], Callable]:
    """A command in that panel of the help; Ctrl-C ends it with one line, wherever it comes."""

    def register(f):
        @wraps(f)
        def run(*args, **kwargs):
            try:
                with interruptible():
                    return f(*args, **kwargs)
            except KeyboardInterrupt:
                report_interruption()

        return app.command(rich_help_panel=panel)(run)

    return register


@app.callback(invoke_without_command=True)
def about(version: Annotated[bool, typer.Option("--version", help="Print the versions and stop.")] = False) -> None:
    if version:
        console.print(f"guidance_jax {guidance_jax.__version__}, JAX {jax.__version__}", highlight=False)
        raise typer.Exit


# as wide as its tables where nobody looks at a terminal
console = Console(width=None if sys.stdout.isatty() else 120)
Data = Annotated[str, typer.Option(help='"digits", a folder of IDX files, or a folder of images by class.')]
OtherData = Annotated[str | None, typer.Option(help="Held-out data; by default those of the models.")]
OtherSize = Annotated[int | None, typer.Option(min=1, max=SIDE, help="Side that they are resized to.")]
Size = Annotated[int | None, typer.Option(min=1, max=SIDE, help="Side that images of a folder are resized to. (32)")]


def flag(name: str, settings: Settings = REQUEST) -> Any:
    """The option of a setting; `schema.check` reads its value."""
    setting = settings[name]
    return typer.Option(f"--{flag_of(name, setting)}", help=setting.help)


SETTINGS = ("solver", "grid", "measurement", "clip")
MEANS = "Means (they change no sample)"
COLUMNS = ("accuracy", "diversity", "Frechet distance", "precision", "recall", "not finite")


def measures_of(report: Report) -> tuple[Estimate, ...]:
    """What the first columns show."""
    return report.accuracy, report.diversity, report.frechet, report.precision, report.recall


def short(report: Report) -> list[str]:
    """The measures to two places, for long tables."""
    return [f"{m.value:.2f} ± {m.error:.2f}" for m in measures_of(report)]


def cells(report: Report) -> list[str]:
    """The measures as they print themselves, and how many samples were not finite."""
    return [*map(str, measures_of(report)), str(report.not_finite)]


@command("Start here")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for models, pictures and results.")] = Path("guidance_jax_demo"),
    samples: Annotated[int, typer.Option(min=2, max=COUNTS, help="Samples a line.")] = 150,
    steps: Annotated[int, typer.Option(min=2, max=STEPS, help="Solver steps.")] = 30,
    quick: Annotated[bool, typer.Option(help="A few training steps: tries the machinery, not the quality.")] = False,
) -> None:
    """Train on handwritten digits, guide in three ways at several scales, and print the table."""
    out.mkdir(parents=True, exist_ok=True)
    recipe = PRESETS["quick" if quick else "small"]
    table = Table("algorithm", "scale", *COLUMNS, "s", title="Guided digits, judged by an independent classifier")
    for row in run_demo(out, recipe=recipe, samples=samples, steps=steps):
        table.add_row(row.algorithm, f"{row.scale:g}", *cells(row.report), f"{row.seconds:.1f}")
    console.print(table)
    console.print("score, mean: classifier guidance (Algorithms 2 and 1 of Dhariwal & Nichol); cfg: classifier-free.")
    console.print(
        "Scale 0 is the unconditional model, 1 the conditional one. Frechet distance: judge's features, no FID."
    )
    console.print(f"Pictures: {out}/score.png, mean.png, cfg.png (a row per scale), trade_off.png; {out}/results.json")


@command("Models")
def train(
    out: Annotated[Path, typer.Option(help="Folder for the three checkpoints.")],
    data: Data = "digits",
    size: Size = None,
    preset: Annotated[
        str,
        typer.Option(help="quick (30 steps: tries the machinery), small (2,000: two CPU cores), standard (50,000)."),
    ] = "small",
    width: Annotated[int | None, flag("width", RECIPE)] = None,
    steps: Annotated[int | None, flag("steps", RECIPE)] = None,
    classifier_steps: Annotated[int | None, flag("classifier_steps", RECIPE)] = None,
    judge_steps: Annotated[int | None, flag("judge_steps", RECIPE)] = None,
    batch: Annotated[int | None, flag("batch", RECIPE)] = None,
    rate: Annotated[float | None, flag("rate", RECIPE)] = None,
    ema: Annotated[float | None, flag("ema", RECIPE)] = None,
    label_dropout: Annotated[float | None, flag("label_dropout", RECIPE)] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror images left to right, by chance. (no)")] = None,
    dtype: Annotated[str | None, flag("dtype", RECIPE)] = None,
    save_every: Annotated[int | None, flag("save_every", RECIPE)] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices that share a batch; by default one.")] = None,
    estimate: Annotated[bool, typer.Option(help="Print the memory a step needs, train nothing.")] = False,
    seed: Annotated[int | None, flag("seed", RECIPE)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out images that cannot be read.")] = False,
) -> None:
    """Train a diffusion model, a noisy classifier and a judge; resume if interrupted. A fifth is held out.

    OUT/denoiser/progress.png (samples) and loss.png are drawn at every save.
    """
    if preset not in PRESETS:
        raise Refused(f"--preset is one of {', '.join(PRESETS)}, got {show(preset)}")
    given: dict[str, Any] = dict(
        width=width, steps=steps, classifier_steps=classifier_steps, judge_steps=judge_steps, batch=batch
    )
    given |= dict(rate=rate, ema=ema, label_dropout=label_dropout, dtype=dtype, seed=seed, save_every=save_every)
    found = check(RECIPE, {k: v for k, v in given.items() if v is not None})
    if found.get("dtype") == "float32":
        del found["dtype"]
    if flip is not None:
        found["flip"] = flip
    recipe = dataclasses.replace(PRESETS[preset], **found)
    every = read_data(data, size, skip_bad)
    if len(every.names) < 2:
        raise Refused(f"{data} has one class, {every.names[0]}; a classifier needs two or more sub-folders of images")
    seen, held_out = every.split()
    if estimate:
        console.print(f"memory of a training step: {step_memory(seen, recipe)}")
        return
    mesh = None if devices is None else sample_mesh(devices)
    remember(out, data, size, every.names)
    watch = draw_progress(out / "denoiser", seen, recipe)
    model, classifier, judge = train_models(out, seen, recipe, progress=True, mesh=mesh, watch=watch)
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


@command("Models")
def convert(
    files: Annotated[
        list[Path], typer.Argument(help="A .pt or .safetensors file, a folder of diffusers, or a checkpoint of ours.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for models: out/denoiser, out/classifier.")],
    to: Annotated[str, typer.Option(help="safetensors or orbax.")] = "safetensors",
    image_size: Annotated[int | None, typer.Option(min=1, max=SIDE, help="Side of the images.")] = None,
    schedule: Annotated[str | None, typer.Option(help="cosine or linear, of 1000 steps.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, max=SIDE, help="Attention heads.")] = None,
    head_channels: Annotated[int | None, typer.Option(min=1, max=SIDE, help="Channels of an attention head.")] = None,
    new_attention_order: Annotated[
        bool | None, typer.Option("--new-attention-order/--old-attention-order", help="As the network was trained.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="DiT, SiT, REPA or LightningDiT, of a latent transformer.")] = None,
    null_label: Annotated[
        bool | None, typer.Option("--null-label/--no-null-label", help="Whether the last label means unconditional.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Which network of a file that holds several: ema.")] = None,
    prediction: Annotated[
        str | None, typer.Option(help="epsilon or v_prediction, of a single file of Stable Diffusion 2.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of CLIP's tokenizer, for a single file.")] = None,
) -> None:
    """Convert what others have trained; no code of a file runs. Folders of diffusers; files of guided-diffusion, GLIDE,
    EDM, DiT, SiT, REPA, LightningDiT and Stable Diffusion.

    The options say what tensors do not, and are needed only for networks that are none of OpenAI's releases.
    """
    known = Options(image_size, schedule_named(schedule), heads, head_channels, new_attention_order, family, null_label)
    for file in files:
        for name, network, domain in convert_files(
            file, out, to, known, key=key, prediction=prediction, tokenizer=tokenizer
        ):
            what = type(network).__name__ if domain is None else f"{type(network).__name__}, {domain}"
            console.print(f"{file} -> {out / name}: {what}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Next: guidance-jax sample --models {out} --out samples.npz")


@command("Sampling")
def methods(
    name: Annotated[str | None, typer.Argument(help="One method or part: its whole documentation.")] = None,
) -> None:
    """List every way to guide, with its options; and solvers, scales, operators and grids."""
    if name is not None:
        row = parts.find(name, PARTS, "method or part")
        console.print(f"{row.name}({parts.options(row, every=True)})\n", highlight=False, markup=False)
        for text in (inspect.getdoc(row.cls), sys.modules[row.cls.__module__].__doc__):  # the formula is in the file's
            console.print(f"{(text or '').strip()}\n", highlight=False, markup=False)
        return
    groups: dict[str, list[Row]] = {}
    for row in (*parts.METHODS.values(), *SOLVERS.values(), *SCALES.values(), *OPERATORS.values()):
        groups.setdefault(row.family, []).append(row)
    for title, rows in groups.items():
        console.print(f"\n[bold]{title}[/bold]")
        for row in rows:
            console.print(f"  {row.name}", style="cyan", end="", highlight=False)
            console.print(f"  {parts.summary(row.cls)}", highlight=False, markup=False)
            if options := parts.options(row):
                console.print(f"      {options}", style="dim", highlight=False, markup=False)
    console.print(f"\n[bold]grids[/bold]\n  {', '.join(GRIDS)}")
    console.print("\n--method none samples the model as it is; --set OPTION=VALUE sets an option.", markup=False)
    console.print(
        "Options [in brackets] have no default in the library; the command line takes that number.", markup=False
    )


Config = Annotated[
    Path | None, typer.Option(help="TOML file: models, method, solver, grid, measurement, ... (flags go over it).")
]
Models = Annotated[Path | None, flag("models")]
Clipped = Annotated[float | None, flag("clip")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="option=value of the method; solver.eta=1, scale.name=Window; any number of times."),
]
Method = Annotated[str | None, flag("method")]
Scaled = Annotated[float | None, flag("scale")]
Solving = Annotated[str | None, flag("solver")]
Grid = Annotated[str | None, flag("grid")]
Steps = Annotated[str | None, flag("steps")]
Labels = Annotated[str | None, flag("labels")]
Prompt = Annotated[list[str] | None, flag("prompts")]
Negative = Annotated[str | None, flag("negative")]
Particles = Annotated[int | None, flag("particles")]
Type = Annotated[str | None, flag("dtype")]
Seed = Annotated[int | None, flag("seed")]


@command("Sampling")
def sample(
    out: Annotated[Path, typer.Option(help="An .npz file (arr_0 NHWC uint8, arr_1 labels), or a folder: a long job.")],
    models: Models = None,
    n: Annotated[int, typer.Option("--n", min=1, max=SAMPLES, help="Samples.")] = 100,
    method: Method = None,
    scale: Scaled = None,
    set_: Set = None,
    config: Config = None,
    label: Labels = None,
    prompt: Prompt = None,
    negative: Negative = None,
    size: Annotated[str | None, flag("size")] = None,
    solver: Solving = None,
    grid: Grid = None,
    steps: Steps = None,
    particles: Particles = None,
    clip: Clipped = None,
    dtype: Type = None,
    seed: Seed = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples at a time; changes none.", rich_help_panel=MEANS)] = 250,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices; by default all.", rich_help_panel=MEANS)] = None,
    split: Annotated[bool, typer.Option(help="Split parameters over devices.", rich_help_panel=MEANS)] = False,
    remat: Annotated[bool, typer.Option(help="Less memory in gradients, more time.", rich_help_panel=MEANS)] = False,
    microbatch: Annotated[
        int | None,
        typer.Option(min=1, max=COUNTS, help="Samples a classifier gradient is taken of.", rich_help_panel=MEANS),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(min=8, max=SIDE, help="Latents on a side that are decoded at a time.", rich_help_panel=MEANS),
    ] = None,
    shard: Annotated[
        int | None, typer.Option(min=1, max=SAMPLES, help="Samples a file of a long job. (500)", rich_help_panel=MEANS)
    ] = None,
    estimate: Annotated[bool, typer.Option(help="Say what memory it needs.", rich_help_panel=MEANS)] = False,
) -> None:
    """Draw guided samples; write them as ADM's evaluator reads them, and a labelled picture beside.

    Into a folder, the job may be killed at any instant and started again, with another batch size or number of devices.
    """
    if out.suffix and out.suffix != ".npz":
        raise Refused(f"--out is an .npz file or a folder, got {out}; write --out {out.with_suffix('.npz')}")
    if not out.suffix and out.is_file():
        raise Refused(f"{out} is a file; a long job needs a folder: choose another name")
    if out.suffix and shard is not None:
        raise Refused(f"--shard is of a long job, which needs a folder: write --out {out.with_suffix('')}")
    if out.suffix:
        check_writable(out)
    flags: dict[str, Any] = dict(scale=scale, labels=label, solver=solver, grid=grid, steps=steps, particles=particles)
    flags |= dict(prompts=prompt or None, negative=negative, size=size)
    request = read_request(models, config, method, set_, **flags, clip=clip, dtype=dtype, seed=seed)
    mesh = sample_mesh(devices)
    asked = plan(request, n, remat=remat, microbatch=microbatch)
    for name in asked.unused:
        title = flag_of(name, REQUEST[name]) if name in REQUEST else name
        raise Refused(f"--{title} changes nothing for {request.method['name']} of this model; leave it out")
    if asked.kernel.population and (split or devices not in (None, 1)):
        raise Refused(f"{request.method['name']} runs its populations on one device; leave --devices and --split out")
    if tile is not None and (asked.pipeline is None or asked.pipeline.autoencoder is None):
        raise Refused("--tile is for models of latents, and this one has no autoencoder; leave it out")
    batch = min(batch, n)
    if estimate:
        index = np.arange(batch)
        given = keys(request.seed, batch), asked.kernel, asked.levels, asked.shape, asked.conditions(index)
        console.print(f"memory: {memory(mesh, *given, split=split)}")
        return

    def draw(indices: range) -> tuple[np.ndarray, np.ndarray]:
        own = keys(request.seed, len(indices), start=indices.start)
        found = asked.draw(mesh, own, np.arange(indices.start, indices.stop), split=split, batch=batch)
        return found, asked.labels[indices.start : indices.stop]

    images = len(asked.shape) == 3

    def encode(found: np.ndarray) -> np.ndarray:
        return to_uint8(asked.pictures(found, tile)) if images else np.asarray(found)

    if not out.suffix:
        content = contents(request.models, measurement=(request.measurement or {}).get("observed"))
        path, bad = Job(out, n, request.about(), shard or 500, content).run(draw, encode, progress="sampling")
        console.print(f"{n} samples, {bad} of those drawn now failed: {path}")
        return
    found, labels = draw(range(n))
    stored = encode(found)
    write_arrays(out, stored, labels)
    about = json.dumps({"n": n, **request.about()}, indent=1, default=str).encode()
    write_whole(out.with_suffix(".json"), lambda file: file.write(about))
    console.print(f"{n} samples, {count_failed(found)} failed: {out}", soft_wrap=True)
    if images:
        known = () if asked.pipeline is None else asked.pipeline.classes
        names = tuple(p[:40] for p in request.prompts) or classes_of(request.models) or known
        pictures, sheet, captions = from_uint8(stored[:100]), {}, {}
        for start in range(0, len(pictures), 10):
            rows = labels[start : start + 10].reshape(len(labels[start : start + 10]), -1).tolist()
            said = [" + ".join(names[i] if i < len(names) else str(i) for i in row) for row in rows]
            title = f"{start}: {said[0]}" if len(set(said)) == 1 else f"{start}"
            sheet[title], captions[title] = pictures[start : start + 10], said if len(set(said)) > 1 else []
        contact_sheet(out.with_suffix(".png"), sheet, captions=captions)
        console.print(f"picture: {out.with_suffix('.png')}", soft_wrap=True)


@command("Sampling")
def compare(
    out: Annotated[Path, typer.Option(help="Folder for comparison.png, comparison.json, trade_off.png.")],
    models: Models = None,
    method: Annotated[
        list[str] | None, typer.Option(help="A name, or name:option=value,option=value; any number of times. (all)")
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Numbers with commas; each method at each. (2)")] = None,
    n: Annotated[int, typer.Option("--n", min=2, max=SAMPLES, help="Samples of each.")] = 100,
    config: Config = None,
    set_: Set = None,
    label: Labels = None,
    prompt: Prompt = None,
    negative: Negative = None,
    solver: Solving = None,
    grid: Grid = None,
    steps: Steps = None,
    particles: Particles = None,
    seed: Seed = None,
    data: OtherData = None,
    size: OtherSize = None,
) -> None:
    """Draw the same seeds with several methods: one labelled picture, a table, the trade-off curve.

    With a judge beside the models (guidance-jax train makes one) samples are measured against held-out data. Methods
    of inverse problems are given a measurement of held-out images: --set measurement.operator.name=Downsample ...,
    Downsample by 2 unless it is given.
    """
    check_writable(out / "comparison.json")
    entries = []
    flags: dict[str, Any] = dict(labels=label, solver=solver, grid=grid, steps=steps, particles=particles, seed=seed)
    flags |= dict(prompts=prompt or None, negative=negative)
    for text in set_ or []:
        if text.partition("=")[0].split(".")[0].strip() not in SETTINGS:
            raise Refused(
                f"--set of compare is of {', '.join(SETTINGS)}, got {show(text)}; write --method NAME:option=2"
            )
    wanted = []
    base = read_request(models, config, None, set_, **flags)
    numbers = [base.scale] if scales is None else [number(part) for part in scales.split(",")]
    names = [(name, own) for name, _, own in (text.partition(":") for text in method or [])]
    for name, _ in names:
        if name != NONE:
            parts.find(name, parts.METHODS, "method")
    measure, held_out = load_judge(Path(base.models), data, size)
    for name, own in names or [(name, "") for name in every_method(base.models)]:
        assignments = [*(a for a in own.split(",") if a), *(set_ or [])]
        for scale in numbers if name != NONE else numbers[:1]:
            one = read_request(models, config, name, assignments, **flags, scale=scale)
            if one.measurement is None and base.measurement is None and held_out is not None and inverse(name):
                one = dataclasses.replace(
                    one, measurement=half_measurement(name, held_out.images[np.arange(n) % len(held_out)])
                )
            wanted.append(one)
    check_any(wanted, n)
    table = Table("method", "scale", *COLUMNS, "s", title=f"{n} samples each, the same seeds")
    for entry in track(compare_all(wanted, n, measure), len(wanted)):
        entries.append(entry)
        if entry.refused is None:
            values = short(entry.report) if entry.report else ["-"] * (len(COLUMNS) - 1)
            table.add_row(entry.name, f"{entry.scale:g}", *values, str(entry.not_finite), f"{entry.seconds:.1f}")
    drawn = [entry for entry in entries if entry.refused is None]
    if not drawn:
        raise Refused(f"none of {len(entries)} could be drawn; {entries[0].name}: {entries[0].refused}")
    files = write(out, entries, min(n, 20), {"models": base.models, "n": n}, classes_of(base.models))
    console.print(table)
    for entry in entries:
        if entry.refused is not None:
            console.print(f"{entry.name} {entry.scale:g} refused: {entry.refused}", markup=False, soft_wrap=True)
    for name in sorted(set.intersection(*(set(entry.unused) for entry in drawn)) - {"scale"}):
        console.print(
            f"--{flag_of(name, REQUEST[name])} changed nothing: none of these methods takes it, of this model"
        )
    console.print(f"{len(drawn)} of {len(entries)} drawn: {', '.join(map(str, files))}")


def number(text: str) -> float:
    """One of --scales."""
    try:
        return check(REQUEST, {"scale": float(text)})["scale"]
    except ValueError:
        raise Refused(f"--scales takes finite numbers with commas, got {show(text)}; write --scales 1,2,4") from None


@command("Sampling")
def evaluate(
    samples: Annotated[Path, typer.Option(help="File written by sample, or any .npz with uint8 NHWC arr_0.")],
    models: Annotated[Path | None, typer.Option(help="Folder written by train: its judge measures.")] = None,
    data: OtherData = None,
    size: OtherSize = None,
    reference: Annotated[Path | None, typer.Option(help="A reference batch of ADM's (.npz): FID and its like.")] = None,
    inception: Annotated[Path | None, typer.Option(help="Inception weights (.pth or .safetensors).")] = None,
    measures: Annotated[str | None, typer.Option(help="fid,sfid,is,precision,...; by default all possible.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the measures.")] = None,
) -> None:
    """Measure samples, against held-out data by a judge, or against a reference batch by Inception, as ADM does.

    The held-out data are those that the models were trained on, unless --data names others.
    """
    if (models is None) == (reference is None):
        raise Refused("give --reference FILE.npz (FID and its like) or --models FOLDER (its judge), one of the two")
    for option, value, own in (
        *(("--data", data, "models"), ("--size", size, "models")),
        *(("--inception", inception, "reference"), ("--measures", measures, "reference")),
    ):
        if value is not None and (models if own == "models" else reference) is None:
            raise Refused(f"{option} goes with --{own}; leave it out")
    wanted = measures.split(",") if measures is not None else None
    for name in wanted or []:
        if name not in NEEDS:
            raise Refused(f"--measures are {', '.join(NEEDS)}, got {show(name)}; write --measures fid,is")
    if out is not None:
        check_writable(out)
    if samples.suffix != ".npz":
        raise Refused(f"{samples} is no .npz file; write one with guidance-jax sample")
    found = read_npz(samples)
    if "arr_0" not in found:
        raise Refused(f"{samples} has no samples, which are called arr_0; write it with guidance-jax sample")
    images = found["arr_0"]
    if "arr_1" not in found and models is not None:
        raise Refused(f"{samples} has no labels, which are called arr_1, and the judge compares them; add them")
    labels = found.get("arr_1", np.zeros(len(images) if images.ndim else 0, np.int32))
    if images.dtype != np.uint8 or images.ndim != 4 or images.size == 0:
        raise Refused(
            f"{samples} holds {images.dtype} of shape {images.shape}; evaluate takes uint8 NHWC images, 0 to 255: "
            "those in [-1, 1] become (127.5 * x + 127.5).round().astype(numpy.uint8)"
        )
    if reference is not None:
        record = by_inception(images, labels, samples, reference, inception, wanted)
    else:
        assert models is not None
        measure, held_out = load_judge(models, data, size)
        if measure is None or held_out is None:
            raise Refused(f"{models} has no judge; guidance-jax train makes one, or give --reference")
        report = measure(images.astype(np.float32) / 127.5 - 1, labels)
        table = Table(*COLUMNS[:-1], title=f"{report.samples} samples against {len(held_out)} held-out images")
        table.add_row(*cells(report)[:-1])
        console.print(table)
        record = report.json() | {"samples_file": str(samples), "jax": jax.__version__}
    if out is not None:
        text = json.dumps(record, indent=1).encode()
        write_whole(out, lambda file: file.write(text))


def by_inception(
    images: np.ndarray, labels: np.ndarray, samples: Path, path: Path, weights: Path | None, measures: list[str] | None
) -> dict[str, Any]:
    """Print and return FID and its like, with their protocol."""
    file_at(path)
    extractor = load_inception(weights)
    reference = Reference.read(path, extractor)
    found = measure_images(images, reference, extractor, measures)
    table = Table(*found, title=f"{len(images)} samples against {reference.name}")
    table.add_row(*(f"{v:.5g}" for v in found.values()))
    console.print(table)
    for name, why in found.refused.items():
        console.print(f"{name}: {why}", highlight=False, markup=False)
    if found.get("fid_bias", np.nan) == found.get("fid_bias"):
        console.print(
            f"FID of {len(images)} samples: too large by about {found['fid_bias']:.3g} (fitted); "
            "published ones are of 50,000"
        )
    beside = [samples.with_suffix(".json"), samples.parent / "manifest.json"]
    sampling = next((read_json(p) for p in beside if p.exists()), None)
    return {"measures": found.json(), "protocol": protocol(reference, extractor, len(images), labels, sampling)}


def main() -> None:
    """Entry point: errors of use are one line and exit code 2, Ctrl-C is one line and 130."""
    try:
        # compiled programs are kept between calls
        jax.config.update("jax_compilation_cache_dir", str(cache("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        code = app(standalone_mode=False)
    except Refused as error:
        complain(f"error: {error}", 2)
    except USAGE as error:  # typer's own, which it would print as a box
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message())  # the help, where it was not printed yet
            sys.exit(2)
        context = getattr(error, "ctx", None)  # click's errors have it or not, by their class
        where = "guidance-jax" if context is None else context.command_path
        complain(f"error: {error.format_message().rstrip('.')}; {where} --help says what there is", 2)
    except OSError as error:
        name = "a file" if error.filename is None else show(str(error.filename))
        complain(f"error: {name}: {error.strerror or error}; mend that and start again", 2)
    except (KeyboardInterrupt, typer.Abort):
        report_interruption()
    if code == 130:  # typer's, of an interruption before or after a command
        report_interruption()
    sys.exit(code if isinstance(code, int) else 0)


def report_interruption() -> NoReturn:
    """The end by Ctrl-C; a second one ends what is still closing, without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    complain(INTERRUPTED, 130)


def complain(text: str, code: int) -> NoReturn:
    """One line on standard error, whatever the text holds, and the end."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else ascii(c)[1:-1] for c in text).split())
    line = line if len(line) <= LINE else f"{line[: LINE // 2]} ... {line[-LINE // 2 :]}"
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
