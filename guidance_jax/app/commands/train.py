"""`guidance-jax train`: train a diffusion model, a noisy classifier and a judge on any labelled images."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer
from rich.table import Table

from guidance_jax.app.data import HELD_OUT, read_data, remember
from guidance_jax.app.models import schedule_of
from guidance_jax.app.options import Data, Size, flag
from guidance_jax.app.recipe import PRESETS, step_memory, train_flow, train_judge
from guidance_jax.app.recipe import train as train_models
from guidance_jax.app.schema import RECIPE, check, show
from guidance_jax.app.terminal import console
from guidance_jax.app.watch import draw_progress
from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images
from guidance_jax.metrics.calibration import by_level
from guidance_jax.sharding import sample_mesh, start_team
from guidance_jax.zoo.judge import TrainedJudge
from guidance_jax.zoo.tarflow import bits_per_number


def train(
    out: Annotated[Path, typer.Option(help="Folder for the three checkpoints.")],
    data: Data = "digits",
    size: Size = None,
    preset: Annotated[
        str,
        typer.Option(
            help="quick (30 steps, to test that training runs), small (2,000, for two CPU cores), standard (50,000)."
        ),
    ] = "small",
    model: Annotated[
        str, typer.Option(help="diffusion, or flow: an autoregressive flow of patches, which has no classifier.")
    ] = "diffusion",
    width: Annotated[int | None, flag("width", RECIPE)] = None,
    steps: Annotated[int | None, flag("steps", RECIPE)] = None,
    classifier_steps: Annotated[int | None, flag("classifier_steps", RECIPE)] = None,
    judge_steps: Annotated[int | None, flag("judge_steps", RECIPE)] = None,
    batch: Annotated[int | None, flag("batch", RECIPE)] = None,
    rate: Annotated[float | None, flag("rate", RECIPE)] = None,
    ema: Annotated[float | None, flag("ema", RECIPE)] = None,
    label_dropout: Annotated[float | None, flag("label_dropout", RECIPE)] = None,
    flip: Annotated[bool | None, typer.Option(help="Mirror images left to right at random. (no)")] = None,
    dtype: Annotated[str | None, flag("dtype", RECIPE)] = None,
    save_every: Annotated[int | None, flag("save_every", RECIPE)] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices that share a batch; by default one.")] = None,
    together: Annotated[
        bool, typer.Option("--together", help="The processes of a launcher share every batch, on all their devices.")
    ] = False,
    estimate: Annotated[bool, typer.Option(help="Print the memory that a step needs; train nothing.")] = False,
    seed: Annotated[int | None, flag("seed", RECIPE)] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Skip images that cannot be read.")] = False,
) -> None:
    """Train a diffusion model, a noisy classifier and a judge. The same command resumes an interrupted training.

    A fifth of the data is held out for measuring. OUT/denoiser/progress.png (samples) and loss.png are drawn at every
    save. Images of a folder that do not fit into memory are read while they are used.
    """
    if together:
        if devices is not None or estimate:
            raise Refused("--together trains on all devices; leave --devices and --estimate out")
        start_team(os.environ)
        console.quiet = jax.process_index() > 0  # the first process speaks and writes for all
    if model not in ("diffusion", "flow"):
        raise Refused(f"--model must be diffusion or flow, got {show(model)}")
    if preset not in PRESETS:
        raise Refused(f"--preset must be one of {', '.join(PRESETS)}, got {show(preset)}")
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
    held_out = held_out.read(HELD_OUT)
    if model == "flow" and (estimate or classifier_steps is not None):
        what = "--estimate" if estimate else "--classifier-steps"
        raise Refused(f"{what} is for diffusion models; remove it for --model flow")
    if estimate:
        console.print(f"memory of a training step: {step_memory(seen, recipe)}")
        return
    mesh = sample_mesh(devices) if together or devices is not None else None
    first = jax.process_index() == 0
    if first:
        remember(out, data, size, every.names, skip_bad)
    if model == "flow":
        trained = train_flow(out / "denoiser", seen, recipe, progress=first, mesh=mesh)
        report_judge(train_judge(out / "judge", seen, recipe, progress=first, mesh=mesh), held_out)
        console.print(f"bits per number, held out: {bits_per_number(trained, held_out):.3f}")
        console.print(f"Next: guidance-jax sample --models {out} --method CFG --scale 1.5 --out samples.npz")
        return
    watch = draw_progress(out / "denoiser", seen, recipe)
    denoiser, classifier, judge = train_models(out, seen, recipe, progress=first, mesh=mesh, watch=watch)
    report_judge(judge, held_out)
    columns = ("sigma / alpha", "accuracy", "loss (nats)", "calibration error", "roughness", "suggested scale")
    table = Table(*columns, title="Noisy classifier, held out")
    for level in by_level(classifier, held_out, schedule_of(denoiser)):
        table.add_row(
            f"{level.ratio:g}",
            *(f"{v:.3f}" for v in (level.accuracy, level.loss, level.calibration_error)),
            f"{level.roughness:.2f}",
            f"{level.scale:.2f}",
        )
    console.print(table)
    console.print(f"Next: guidance-jax sample --models {out} --out samples.npz")


def report_judge(judge: TrainedJudge, held_out: Images) -> None:
    """Print the accuracy of the judge on held-out images."""
    correct = judge(held_out.images)[0] == held_out.labels
    console.print(f"judge: {np.mean(correct):.1%} of {len(held_out)} held-out images")
