"""`guidance-jax sample`: draw guided samples into a file, or into a folder as a long job."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import guidance_jax
from guidance_jax.app.data import classes_of
from guidance_jax.app.edits import read_adapters, read_lines
from guidance_jax.app.models import free_encoders
from guidance_jax.app.options import (
    Clipped,
    Config,
    Grid,
    Labels,
    Method,
    Models,
    Negative,
    Particles,
    Prompt,
    Scaled,
    Seed,
    Set,
    Solving,
    Steps,
    Type,
    flag,
)
from guidance_jax.app.plan import Plan, plan
from guidance_jax.app.request import Request, read_request
from guidance_jax.app.schema import COUNTS, REQUEST, SAMPLES, SIDE, flag_of
from guidance_jax.app.terminal import console
from guidance_jax.app.text import sample_text
from guidance_jax.app.workers import read_worker
from guidance_jax.core import Refused, count_failed
from guidance_jax.files import check_writable, write_whole
from guidance_jax.jobs import Job, contents, write_arrays
from guidance_jax.pictures import contact_sheet, from_uint8, to_uint8
from guidance_jax.places import find_place, is_remote
from guidance_jax.sample import keys
from guidance_jax.sharding import Team, memory, sample_mesh, start_team
from guidance_jax.zoo.rotary.pipeline import is_text

MEANS = "Computation (these options change no sample)"


def sample(
    out: Annotated[
        str,
        typer.Option(
            help="An .npz file (arr_0 NHWC uint8, arr_1 labels), or a folder (also gs://, s3://) for a long job."
        ),
    ],
    models: Models = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, max=SAMPLES, help="Number of samples. (100; for text one per prompt)")
    ] = None,
    method: Method = None,
    scale: Scaled = None,
    set_: Set = None,
    config: Config = None,
    label: Labels = None,
    prompt: Prompt = None,
    negative: Negative = None,
    prompt_file: Annotated[Path | None, typer.Option(help="File of captions, one per line.")] = None,
    weighted: Annotated[bool, flag("weighted")] = False,
    chunks: Annotated[int | None, flag("chunks")] = None,
    size: Annotated[str | None, flag("size")] = None,
    lora: Annotated[list[str] | None, flag("lora")] = None,
    control: Annotated[str | None, flag("control")] = None,
    hint: Annotated[str | None, flag("hint")] = None,
    start: Annotated[str | None, flag("start")] = None,
    strength: Annotated[float | None, flag("strength")] = None,
    mask: Annotated[str | None, flag("mask")] = None,
    length: Annotated[
        int | None, typer.Option(min=1, help="Number of tokens that a model of text writes. (64)")
    ] = None,
    pattern: Annotated[str | None, typer.Option(help="Regular expression that every text must match.")] = None,
    solver: Solving = None,
    grid: Grid = None,
    steps: Steps = None,
    particles: Particles = None,
    clip: Clipped = None,
    dtype: Type = None,
    seed: Seed = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples drawn at a time.", rich_help_panel=MEANS)] = 250,
    devices: Annotated[int | None, typer.Option(min=1, help="Devices; by default all.", rich_help_panel=MEANS)] = None,
    split: Annotated[bool, typer.Option(help="Split parameters over devices.", rich_help_panel=MEANS)] = False,
    remat: Annotated[
        bool, typer.Option(help="Use less memory for gradients, and more time.", rich_help_panel=MEANS)
    ] = False,
    microbatch: Annotated[
        int | None,
        typer.Option(min=1, max=COUNTS, help="Samples per gradient of the classifier.", rich_help_panel=MEANS),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=8,
            max=SIDE,
            help="Side, in latents, of the tiles that are decoded one at a time.",
            rich_help_panel=MEANS,
        ),
    ] = None,
    shard: Annotated[
        int | None,
        typer.Option(min=1, max=SAMPLES, help="Samples per file of a long job. (500)", rich_help_panel=MEANS),
    ] = None,
    worker: Annotated[
        str | None,
        typer.Option(
            help="K/N: process K of N on one folder; by default read from Slurm, Kubernetes, torchrun or SkyPilot.",
            rich_help_panel=MEANS,
        ),
    ] = None,
    collect: Annotated[
        bool,
        typer.Option("--collect", help="Let a worker also write all samples into one file.", rich_help_panel=MEANS),
    ] = False,
    together: Annotated[
        bool,
        typer.Option(
            "--together",
            help="All started processes run one program; with --split it uses all devices.",
            rich_help_panel=MEANS,
        ),
    ] = False,
    estimate: Annotated[
        bool, typer.Option(help="Print the memory that sampling needs; draw nothing.", rich_help_panel=MEANS)
    ] = False,
) -> None:
    """Draw guided samples, and write them in the format of ADM's evaluator, with a labelled picture beside the file.

    If OUT is a folder, you can stop the job at any time and restart it with the same command. The batch size and the
    number of devices may change. Several processes may work on one folder: each draws shards that no other process has
    drawn or is drawing.
    """
    place = find_place(out)
    check_out(place, shard)
    if place.suffix and (worker is not None or collect):
        raise Refused(
            f"--worker and --collect are for a long job, which needs a folder: write --out {place.with_suffix('')}"
        )
    # the processes of a team (--together) are one worker, unless --worker is given
    own_number = read_worker(worker, {} if together else os.environ)
    if together:
        if place.suffix or devices is not None or estimate:
            raise Refused(
                "--together is for a long job on all devices; write --out FOLDER, and remove --devices and --estimate"
            )
        start_team(os.environ)
    flags: dict[str, Any] = dict(scale=scale, labels=label, solver=solver, grid=grid, steps=steps, particles=particles)
    prompts = [*(prompt or []), *([] if prompt_file is None else read_lines(prompt_file))]
    flags |= dict(prompts=prompts or None, negative=negative, size=size, weighted=weighted or None, chunks=chunks)
    flags |= dict(lora=lora or None, control=control, hint=hint, start=start, strength=strength, mask=mask)
    request = read_request(models, config, method, set_, **flags, clip=clip, dtype=dtype, seed=seed)
    if is_text(request.models):
        check_text(devices, split, remat, microbatch, tile, estimate, worker, collect, together)
        sample_text(request, place, n or max(len(request.prompts), 1), length, pattern, batch)
        return
    n = 100 if n is None else n
    if length is not None or pattern is not None:
        raise Refused("--length and --pattern are for models of text; remove them")
    mesh = sample_mesh(devices)
    asked = plan(request, n, remat=remat, microbatch=microbatch)
    check_used(request, asked, alone=not split and devices in (None, 1), tile=tile)
    if together and (asked.kernel.population or asked.flow is not None):
        raise Refused("populations and flows are drawn by one process each; write --worker instead of --together")
    free_encoders(asked.pipeline)
    batch = min(batch, n)
    team = Team.of_processes() if together else Team()
    if estimate:
        index = np.arange(batch)
        given = keys(request.seed, batch), asked.kernel, asked.levels, asked.shape, asked.conditions(index)
        console.print(f"memory: {memory(mesh, *given, split=split)}")
        return

    def draw(indices: range) -> tuple[np.ndarray, np.ndarray]:
        own = keys(request.seed, len(indices), start=indices.start)
        index = np.minimum(np.arange(indices.start, indices.stop), n - 1)  # a team fills up its last part
        drawn = asked.draw(mesh, own, index, split=split, batch=batch, gather=not together)
        return drawn, asked.labels[index.reshape(team.size, -1)[team.rank]]

    def encode(drawn: np.ndarray) -> np.ndarray:
        return to_uint8(asked.pictures(drawn, tile)) if asked.images else np.asarray(drawn)

    if not place.suffix:
        files: dict[str, Any] = dict(control=request.control, hint=request.hint, start=request.start, mask=request.mask)
        files |= {f"lora {i}": file for i, file in enumerate(read_adapters(request.lora))}
        content = contents(request.models, measurement=(request.measurement or {}).get("observed"), **files)
        shard = shard or min(500, -(-n // team.size) if together else 500)
        job = Job(place, n, request.about(), shard, content | {"guidance_jax": guidance_jax.__version__})
        alone = own_number is None or own_number[1] == 1
        path, bad = job.run(draw, encode, "sampling", own_number or (0, 1), collect or alone, team=team)
        if team.rank == 0:
            console.print(f"{n} samples, {bad} of those drawn now failed: {path}")
        if path == place and not together:
            console.print(
                "wrote no single file of all samples, because several workers share the job; add --collect to write it"
            )
        return
    drawn, labels = draw(range(n))
    stored = encode(drawn)
    write_arrays(place, stored, labels)
    about = json.dumps({"n": n, **request.about()}, indent=1, default=str).encode()
    write_whole(place.with_suffix(".json"), lambda file: file.write(about))
    console.print(f"{n} samples, {count_failed(drawn)} failed: {out}", soft_wrap=True)
    if asked.images:
        known = () if asked.pipeline is None else asked.pipeline.classes
        captions = tuple(caption[:40] for caption in request.prompts)
        captions = (" + ".join(captions),) if captions and not labels.any() else captions  # all captions at once
        names = captions or classes_of(request.models) or known
        draw_sheet(place.with_suffix(".png"), stored[:100], labels, names)
        console.print(f"picture: {place.with_suffix('.png')}", soft_wrap=True)


def check_text(*means: Any) -> None:
    """Raise `Refused` if options are given that do not work for models of text yet."""
    if any(value not in (None, False) for value in means):
        raise Refused(
            "a model of text is sampled on one device; remove --devices, --split, --remat, --microbatch, --tile, "
            "--estimate, --worker, --collect and --together"
        )


def check_out(out: Any, shard: int | None) -> None:
    """Raise `Refused` unless `out` can be written, as an .npz file or as the folder of a long job."""
    if out.suffix and is_remote(out):
        raise Refused(f"{out} would be one file in an object store, which accepts only folders; remove {out.suffix}")
    if out.suffix and out.suffix != ".npz":
        raise Refused(f"--out must be an .npz file or a folder, got {out}; write --out {out.with_suffix('.npz')}")
    if not out.suffix and out.is_file():
        raise Refused(f"{out} is a file; a long job needs a folder: choose another name")
    if out.suffix and shard is not None:
        raise Refused(f"--shard is for a long job, which needs a folder: write --out {out.with_suffix('')}")
    if out.suffix:
        check_writable(out)


def check_used(request: Request, asked: Plan, *, alone: bool, tile: int | None) -> None:
    """Raise `Refused` for an option that changes nothing for this method and model, or does not fit them."""
    if request.mask is not None and request.start is None and "mask" in asked.unused:
        raise Refused("--mask needs --start, the picture whose white part is drawn anew; add --start PICTURE")
    for name in asked.unused:
        title = flag_of(name, REQUEST[name]) if name in REQUEST else name
        raise Refused(f"--{title} has no effect for {request.method['name']} with this model; remove it")
    if asked.kernel.population and not alone:
        raise Refused(f"{request.method['name']} runs its populations on one device; remove --devices and --split")
    if tile is not None and (asked.pipeline is None or asked.pipeline.autoencoder is None):
        raise Refused("--tile is for models of latents, and this one has no autoencoder; remove it")


def draw_sheet(path: Path, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> None:
    """Write uint8 `images` as one picture, in rows of ten, with the names of their labels."""
    pictures, rows, captions = from_uint8(images), {}, {}
    for start in range(0, len(pictures), 10):
        row = labels[start : start + 10]
        said = [
            " + ".join(names[i] if i < len(names) else str(i) for i in own)
            for own in row.reshape(len(row), -1).tolist()
        ]
        title = f"from {start}: {said[0]}" if len(set(said)) == 1 else f"from {start}"
        rows[title], captions[title] = pictures[start : start + 10], said if len(set(said)) > 1 else []
    contact_sheet(path, rows, captions=captions)
