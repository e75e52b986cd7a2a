"""Networks that learned guidance, beside CFG of the network that they learned it from."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

import guidance_jax as gj
from benchmarks.fashion import DATA, MODELS, RECIPE, denoiser, judges, judging
from benchmarks.suite import Row, benchmark
from benchmarks.sweep import DRAWN, SEEDS, Family, sweep
from guidance_jax.app.recipe import adamw, fingerprint, networks
from guidance_jax.checkpoints.store import Run
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.guidance import Internal, Learned
from guidance_jax.models import TwoHeaded
from guidance_jax.training.distillation import Distillation, TrajectoryDistillation
from guidance_jax.training.fit import fit
from guidance_jax.training.guidance_free import GuidanceFree
from guidance_jax.training.internal_heads import InternalHeads
from guidance_jax.training.losses import Denoising
from guidance_jax.training.model_guidance import ModelGuidance

SHAPE, NULL, MOST, MODEL_GUIDANCE = (28, 28, 1), 10, 3.0, 1.5
SCALES, WORSE = (1.25, 1.5, 2.0, 3.0), (1.3, 1.6, 2.0, 3.0)
BASE = dataclasses.replace(RECIPE, width=16)
UNET = networks(SHAPE, 10, BASE)[0]
SCALED, EARLY = UNET.clone(scaled=True), UNET.clone(early=True)
V, SCHEDULE = gj.parameterizations.v, gj.Cosine()


class Lesson(NamedTuple):
    """A network, its loss given the base, the evaluations that it makes of a sample, the batch, and what is trained.

    A backward pass counts as two evaluations.
    """

    unet: Any
    loss: Callable[[gj.Network], Any]
    evaluations: int
    batch: int = BASE.batch
    adapters: bool = False  # only what the base does not have: here the embedding of the scale


def distillation(base):
    student = dataclasses.replace(base, apply=SCALED.apply, scale=1.0)
    return Distillation(student, gj.CFG(base, NULL, 1.0), SCHEDULE, (1.0, MOST))


def along_trajectories(base):
    given = distillation(base)
    return TrajectoryDistillation(given.student, given.teacher, gj.DDIM(), SCHEDULE.levels(10), given.scales)


def from_data(loss, unet, **options):
    return lambda base: loss(unet.apply, SCHEDULE, V, NULL, BASE.label_dropout, **options)


LESSONS = {
    "denoising": Lesson(UNET, from_data(Denoising, UNET), 3),
    "distilled": Lesson(SCALED, distillation, 5),
    "adapters on guided trajectories": Lesson(SCALED, along_trajectories, 50, BASE.batch // 8, adapters=True),
    "guidance-free training": Lesson(SCALED, from_data(GuidanceFree, SCALED, most=MOST), 4),
    "model guidance": Lesson(UNET, from_data(ModelGuidance, UNET, scale=MODEL_GUIDANCE), 4),
    "internal heads": Lesson(EARLY, from_data(InternalHeads, EARLY), 3),
}


def taught(name: str, base: gj.Network, data: Any, steps: int, directory: Path) -> tuple[gj.Network, Row]:
    """The network of a lesson, and what it cost."""
    lesson = LESSONS[name]
    image, zero = jnp.zeros(SHAPE), jnp.zeros(())
    whole = jax.jit(lesson.unet.init)(jax.random.key(1), image, zero, jnp.zeros((), jnp.int32))
    own, given = flatten_dict(whole), flatten_dict(base.params)
    params = unflatten_dict({**own, **given})  # what is new begins as it does, with zeros at its end
    optimizer = adamw(steps, 1e-3)
    trained = own.keys() - given.keys() if lesson.adapters else own.keys()
    if lesson.adapters:
        kinds = unflatten_dict({k: "train" if k in trained else "keep" for k in own})
        optimizer = optax.multi_transform({"train": optimizer, "keep": optax.set_to_zero()}, kinds)
    run = Run(directory, {"lesson": name, "steps": steps, "data": fingerprint(data)})
    note, begin = directory / "seconds.json", time.perf_counter()
    params, losses = fit(
        lesson.loss(base), params, data, steps=steps, batch=lesson.batch, optimizer=optimizer, ema=0.995, run=run
    )
    if not note.exists():
        note.write_text(json.dumps(time.perf_counter() - begin))
    cost = {
        "parameters": sum(own[k].size for k in trained),
        "evaluations": lesson.evaluations * lesson.batch * steps,
        "seconds": round(json.loads(note.read_text()), 1),
    }
    row = Row({"lesson": name}, {"loss": np.mean(losses[-100:])}, cost)
    kind = TwoHeaded if lesson.unet is EARLY else gj.Network
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    return kind(**fields | {"params": params, "apply": lesson.unet.apply}), row


def methods(found: dict[str, gj.Network], base: gj.Network) -> dict[str, tuple]:
    """name: (strength -> denoiser, strengths, evaluations a step, which lesson)."""
    longer = found["denoising"]
    rows = {
        "the conditional model": (lambda w: base, (1.0,), 1, None),
        "the conditional model, trained longer": (lambda w: longer, (1.0,), 1, "denoising"),
        "CFG": (lambda w: gj.CFG(base, NULL, w), SCALES, 2, None),
        "CFG, trained longer": (lambda w: gj.CFG(longer, NULL, w), SCALES, 2, "denoising"),
        "model guidance": (lambda w: found["model guidance"], (MODEL_GUIDANCE,), 1, "model guidance"),
        "internal guidance": (lambda w: Internal(found["internal heads"], w), WORSE, 1, "internal heads"),
    }
    scaled = ("distilled", "adapters on guided trajectories", "guidance-free training")
    ask = {name: lambda w, name=name: Learned(found[name], w) for name in scaled}
    return rows | {name: (ask[name], (1.0, *SCALES), 1, name) for name in scaled}


def drawn(make, steps, n, seed, strength):
    kernel = gj.Reverse(gj.Clip(make(jnp.float32(strength))), gj.DDIM())
    labels = np.arange(n, dtype=np.int32) % 10
    return np.asarray(gj.generate(gj.keys(seed, n), kernel, SCHEDULE.levels(steps), SHAPE, labels))


def missed(rows: dict[str, tuple], steps: int, n: int) -> Iterator[Row]:
    """From the same noise: the mean squared distance to CFG's samples, over that of the unguided ones to them."""
    plain = drawn(rows["the conditional model"][0], steps, n, SEEDS[0], 1.0)
    for strength in SCALES:
        guided = drawn(rows["CFG"][0], steps, n, SEEDS[0], strength)
        for name, (make, strengths, calls, _) in rows.items():
            if calls == 1 and strength in strengths and name != "internal guidance":
                own = drawn(make, steps, n, SEEDS[0], strength)
                share = float(np.mean((own - guided) ** 2) / np.mean((plain - guided) ** 2))
                yield Row({"method": name, "strength": strength, "beside": "CFG"}, {"missed": share})


@benchmark(quick={"n": 4, "training": 2, "steps": 2}, base=BASE.steps, **DRAWN)
def learned(
    data: Path = DATA, folder: Path = MODELS, n: int = 150, training: int = 400, steps: int = 20, known: list = ()
) -> Iterator[Row]:
    """Does one call of a network that learned guidance do what CFG does in two?

    Fashion-MNIST. Every network is trained equally long (`training` steps) from one denoiser, half as wide as that of
    `fashion`: distilled from its CFG (whole, or adapters alone, on guided trajectories), by guidance-free training,
    model guidance, internal heads, and, for CFG itself, by denoising as before. All are sampled from the same noise in
    the same number of DDIM steps, `n` of a seed; the strength is chosen and reported as in `quality`.
    """
    seen, held_out = idx(data, names=FASHION), idx(data, "t10k", names=FASHION)
    base, found = denoiser(seen, folder, BASE.width), {}
    for name in LESSONS:
        found[name], row = taught(name, base, seen, training, folder / "learned" / name.replace(" ", "_"))
        yield row
    rows = methods(found, base)
    families = {
        name: Family(partial(drawn, make, steps, n), strengths, {"evaluations": calls * steps, "lesson": lesson})
        for name, (make, strengths, calls, lesson) in rows.items()
    }
    yield from missed(rows, steps, n)
    how, accuracy = judging(judges(data, folder), held_out, n)
    yield from accuracy
    yield from sweep(families, curves=list(rows), known=known, **how)
