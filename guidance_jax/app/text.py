"""`guidance-jax sample` for language and protein models, which turn prompts into texts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.app.models import load_once
from guidance_jax.app.parts import Builder
from guidance_jax.app.request import NONE, Request
from guidance_jax.app.schema import show
from guidance_jax.app.terminal import console
from guidance_jax.core import Refused, count_failed
from guidance_jax.discrete.entropy_bound import EntropyBound
from guidance_jax.discrete.masked_contrast import AdaptiveCFG, PromptCFG
from guidance_jax.discrete.planned import PlannedUnmasking
from guidance_jax.files import write_whole
from guidance_jax.jobs import write_arrays
from guidance_jax.methods import METHODS, SOLVERS
from guidance_jax.sample import generate, keys
from guidance_jax.zoo.rotary.canvas import NULL, CanvasPipeline
from guidance_jax.zoo.rotary.pipeline import TextPipeline

LENGTH = 64  # the default number of tokens to write
OF_TEXT = {"CFG": "PromptCFG"} | {cls.__name__: cls.__name__ for cls in (PromptCFG, AdaptiveCFG)}
# the settings of a request that models of text use
USED = {"models", "method", "scale", "solver", "prompts", "steps", "seed", "dtype"}


class GivenText:
    """Offer a language model, its null condition and the requested scale to a method."""

    schedule = weak = None
    prompt = "known"

    def __init__(self, model: Any, scale: float, null: Any = None):
        self.model = self.free = model
        self.scale, self.null = scale, null


def sample_text(request: Request, out: Path, n: int, length: int | None, pattern: str | None, batch: int) -> None:
    """Draw `n` texts, print them, and write tokens (`out`, .npz), texts (.txt) and the request (.json).

    Raises:
      Refused: options that have no meaning for texts, a method that does not guide by prompts, or a pattern that no
        text of that length matches.
    """
    if not out.suffix:
        raise Refused(f"texts are written into one file on a disk, got the folder {out}; write --out {out.name}.npz")
    pipeline = load_once(Path(request.models), request.dtype, False)
    of_canvas = isinstance(pipeline, CanvasPipeline)
    for name in sorted(request.given - USED - ({"negative"} if of_canvas else set())):
        raise Refused(f"--{name.replace('_', '-')} is not for this model, which writes text; leave it out")
    length = LENGTH if length is None else length
    prompts = request.prompts or ("",)
    asked = [prompts[i % len(prompts)] for i in range(n)]
    draw = draw_canvases if of_canvas else draw_masked
    x, texts = draw(request, pipeline, asked, length, pattern, batch)
    write_arrays(out, x, np.arange(n) % len(prompts))
    said = {"n": n, "length": length, "pattern": pattern, **request.about()}
    lines, about = "\n".join(texts) + "\n", json.dumps(said, indent=1, default=str)
    write_whole(out.with_suffix(".txt"), lambda file: file.write(lines.encode()))
    write_whole(out.with_suffix(".json"), lambda file: file.write(about.encode()))
    for i, text in enumerate(texts[:10]):
        prompt = prompts[i % len(prompts)]
        console.print(f"{prompt}|{text}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{n} texts, {count_failed(x)} failed: {out}, {out.with_suffix('.txt')}", soft_wrap=True)


def guide_by_request(request: Request, given: GivenText, methods: dict[str, str]) -> Any:
    """Return the model under the method of the request. `methods` maps the names for users to the names of rows.

    Raises:
      Refused: a method that is not one of `methods`.
    """
    name = str(request.method.get("name", NONE)) if "method" in request.given else NONE
    if name.lower() == NONE:
        return given.model
    own = {known.lower(): method for known, method in methods.items()}.get(name.lower())
    if own is None:
        raise Refused(
            f"{show(name)} is no method for a model that reads prompts; {', '.join(methods)} are, and all others of "
            "tokens in Python"
        )
    return Builder(lambda row: given).make({**request.method, "name": own}, METHODS, "method")


def steps_of(request: Request, default: int) -> int:
    """Return the number of steps of the request."""
    steps = request.steps if "steps" in request.given else str(default)
    if not steps.isdigit():
        raise Refused(f"--steps is a number for a model of text, got {show(steps)}; write --steps 64")
    return int(steps)


def in_batches(draw: Any, n: int, batch: int) -> np.ndarray:
    """Return `draw(index)` for the indices 0 to n - 1, `batch` at a time. The last batch is filled up and then cut."""
    drawn = []
    for start in range(0, n, batch):
        index = np.resize(np.arange(start, min(start + batch, n)), min(batch, n))
        drawn.append(np.asarray(draw(index))[: min(batch, n - start)])
    return np.concatenate(drawn)


def draw_masked(
    request: Request, pipeline: TextPipeline, asked: list[str], length: int, pattern: str | None, batch: int
) -> tuple[np.ndarray, list[str]]:
    """Draw (tokens, texts) of a masked language model, one for each prompt in `asked`.

    Raises:
      Refused: what `sample_text` refuses.
    """
    cond = pipeline.conditions(asked, length)
    given = GivenText(pipeline.model, request.scale)
    model = guide_by_request(request, given, OF_TEXT)
    table = {"name": PlannedUnmasking.__name__, **(request.solver or {})}
    solver = Builder(lambda row: given).make(table, SOLVERS, "solver", "solver.")
    total = cond["known"].shape[1]
    if pattern is not None:
        if not isinstance(solver, PlannedUnmasking):
            raise Refused("--pattern is of the solver PlannedUnmasking; leave --solver out")
        solver = dataclasses.replace(solver, within=pipeline.rule(pattern, length, total))
    kernel, levels = pipeline.kernel(model, solver), pipeline.levels(steps_of(request, length))

    def draw(index):
        some = {k: v[index] for k, v in cond.items()}
        return generate(keys(request.seed, len(index), start=int(index[0])), kernel, levels, (total,), some)

    x = in_batches(draw, len(asked), batch)
    return x, pipeline.decode(x, cond)


def draw_canvases(
    request: Request, pipeline: CanvasPipeline, asked: list[str], length: int, pattern: str | None, batch: int
) -> tuple[np.ndarray, list[str]]:
    """Draw (tokens, texts) of a model that writes canvas by canvas, one for each prompt in `asked`.

    Raises:
      Refused: what `sample_text` refuses; a pattern.
    """
    if pattern is not None:
        raise Refused("--pattern is for masked models, and this one replaces noise; leave it out")
    given = GivenText(pipeline.model, request.scale, NULL)
    model = guide_by_request(request, given, {"CFG": "CFG"})
    solver = pipeline.solver
    if request.solver is not None:
        table = {"name": EntropyBound.__name__, **request.solver}
        solver = Builder(lambda row: given).make(table, SOLVERS, "solver", "solver.")
    steps = steps_of(request, pipeline.steps)
    other = None if model is pipeline.model else request.negative

    def draw(index):
        own_keys = keys(request.seed, len(index), start=int(index[0]))
        some = [asked[i] for i in index]
        return pipeline.write(own_keys, some, length, model=model, other=other, steps=steps, solver=solver)

    x = in_batches(draw, len(asked), batch)
    return x, pipeline.decode(x)
