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
from guidance_jax.discrete.masked_contrast import AdaptiveCFG, PromptCFG
from guidance_jax.discrete.planned import PlannedUnmasking
from guidance_jax.files import write_whole
from guidance_jax.jobs import write_arrays
from guidance_jax.methods import METHODS, SOLVERS
from guidance_jax.sample import generate, keys

LENGTH = 64  # the default number of tokens to write
OF_TEXT = {"CFG": "PromptCFG"} | {cls.__name__: cls.__name__ for cls in (PromptCFG, AdaptiveCFG)}
# the settings of a request that models of text use
USED = {"models", "method", "scale", "solver", "prompts", "steps", "seed", "dtype"}


class GivenText:
    """Offer a language model and the requested scale to a method; the other fields of `methods.Given` are None."""

    schedule = null = weak = None
    prompt = "known"

    def __init__(self, model: Any, scale: float):
        self.model = self.free = model
        self.scale = scale


def sample_text(request: Request, out: Path, n: int, length: int | None, pattern: str | None, batch: int) -> None:
    """Draw `n` texts, print them, and write tokens (`out`, .npz), texts (.txt) and the request (.json).

    Raises:
      Refused: options that have no meaning for texts, a method that does not guide by prompts, or a pattern that no
        text of that length matches.
    """
    if not out.suffix:
        raise Refused(f"texts are written into one file on a disk, got the folder {out}; write --out {out.name}.npz")
    for name in sorted(request.given - USED):
        raise Refused(f"--{name.replace('_', '-')} is of pictures, and this model writes text; leave it out")
    pipeline = load_once(Path(request.models), request.dtype, False)
    name = str(request.method.get("name", NONE)) if "method" in request.given else NONE
    length = LENGTH if length is None else length
    prompts = request.prompts or ("",)
    cond = pipeline.conditions([prompts[i % len(prompts)] for i in range(n)], length)
    given = GivenText(pipeline.model, request.scale)
    builder = Builder(lambda row: given)
    model = pipeline.model
    if name.lower() != NONE:
        own = {known.lower(): method for known, method in OF_TEXT.items()}.get(name.lower())
        if own is None:
            raise Refused(
                f"{show(name)} is no method for a model that reads prompts; {', '.join(OF_TEXT)} are, and all others "
                "of tokens in Python"
            )
        model = builder.make({**request.method, "name": own}, METHODS, "method")
    table = {"name": PlannedUnmasking.__name__, **(request.solver or {})}
    solver = builder.make(table, SOLVERS, "solver", "solver.")
    total = cond["known"].shape[1]
    if pattern is not None:
        if not isinstance(solver, PlannedUnmasking):
            raise Refused("--pattern is of the solver PlannedUnmasking; leave --solver out")
        solver = dataclasses.replace(solver, within=pipeline.rule(pattern, length, total))
    steps = request.steps if "steps" in request.given else str(length)
    if not steps.isdigit():
        raise Refused(f"--steps is a number for a model of text, got {show(steps)}; write --steps 64")
    kernel, levels = pipeline.kernel(model, solver), pipeline.levels(int(steps))
    drawn = []
    for start in range(0, n, batch):
        index = np.resize(np.arange(start, min(start + batch, n)), min(batch, n))  # fills up the last batch
        some = {k: v[index] for k, v in cond.items()}
        own_keys = keys(request.seed, len(index), start=start)
        drawn.append(np.asarray(generate(own_keys, kernel, levels, (total,), some))[: min(batch, n - start)])
    x = np.concatenate(drawn)
    texts = pipeline.decode(x, cond)
    write_arrays(out, x, np.arange(n) % len(prompts))
    about = {"n": n, "length": length, "pattern": pattern, **request.about()}
    lines, asked = "\n".join(texts) + "\n", json.dumps(about, indent=1, default=str)
    write_whole(out.with_suffix(".txt"), lambda file: file.write(lines.encode()))
    write_whole(out.with_suffix(".json"), lambda file: file.write(asked.encode()))
    for i, text in enumerate(texts[:10]):
        prompt = prompts[i % len(prompts)]
        console.print(f"{prompt}|{text}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"{n} texts, {count_failed(x)} failed: {out}, {out.with_suffix('.txt')}", soft_wrap=True)
