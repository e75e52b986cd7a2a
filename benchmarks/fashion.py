"""Models of Fashion-MNIST that comparisons of images share, and the digits that ship: what is trained beforehand.

60,000 real 28 x 28 images; a U-Net trained with conditioning dropout, a weaker one for autoguidance, a noisy
classifier, a clean classifier as it might come off the shelf, and two judges, which are none of them: one chooses the
strength of every method, the other reports. Resumes where it was stopped.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.suite import Row, benchmark
from guidance_jax.app.recipe import Recipe, train, train_classifier, train_denoiser, train_judge
from guidance_jax.checkpoints.config import read_config
from guidance_jax.checkpoints.store import read_params
from guidance_jax.datasets.digits import digits
from guidance_jax.datasets.idx import FASHION, idx
from guidance_jax.datasets.images import Images
from guidance_jax.files import write_whole
from guidance_jax.metrics.report import evaluate
from guidance_jax.models.network import Network, NoisyClassifier
from guidance_jax.pictures import to_uint8
from guidance_jax.zoo.examples import WEIGHTS
from guidance_jax.zoo.judge import TrainedJudge

DATA, MODELS = Path("/usr/share/datasets/fashion-mnist"), Path("fashion_models")
RECIPE = Recipe(width=32, classifier_width=24, steps=2400, classifier_steps=3000, label_dropout=0.15)
JUDGE = dataclasses.replace(RECIPE, judge_steps=3000, batch=128)
VALIDATION = dataclasses.replace(JUDGE, seed=200, judge_width=24)
CLEAN = dataclasses.replace(RECIPE, seed=100, judge_width=24, judge_steps=1200)


class Fashion(NamedTuple):
    """Everything the comparison needs."""

    model: Network
    weak: Network
    classifier: NoisyClassifier
    clean: TrainedJudge
    judge: TrainedJudge
    validation: TrainedJudge
    held_out: Images


def denoiser(seen: Images, directory: Path, width: int = RECIPE.width, progress: bool = True) -> Network:
    """The model of that width, trained or loaded."""
    recipe = dataclasses.replace(RECIPE, width=width)
    return train_denoiser(directory / f"denoiser_{width}", seen, recipe, progress=progress)


def models(data: Path = DATA, directory: Path = MODELS, progress: bool = True, width: int = RECIPE.width) -> Fashion:
    """Train, or load what is trained; the weak denoiser is half as wide and stopped after 500 steps."""
    seen, held_out = idx(data, names=FASHION), idx(data, "t10k", names=FASHION)
    clean = train_judge(directory / "clean", seen, CLEAN, progress=progress)
    model = denoiser(seen, directory, width, progress)
    classifier = train_classifier(directory / "classifier", seen, RECIPE, progress=progress)
    less = dataclasses.replace(RECIPE, width=width // 2, steps=500)
    weak = train_denoiser(directory / f"weak_{width // 2}", seen, less, progress=progress)
    return Fashion(model, weak, classifier, clean, **judges(data, directory, progress), held_out=held_out)


def judges(data: Path = DATA, directory: Path = MODELS, progress: bool = True) -> dict[str, TrainedJudge]:
    """The judge that reports and the one that chooses, trained or loaded."""
    seen = idx(data, names=FASHION)
    recipes = {"judge": JUDGE, "validation": VALIDATION}
    return {name: train_judge(directory / name, seen, recipe, progress=progress) for name, recipe in recipes.items()}


def judging(judges: dict[str, TrainedJudge], held_out: Images, n: int) -> tuple[dict[str, Any], list[Row]]:
    """How `sweep` judges these images, `n` of a seed, of all classes in turn, and rows of how good the judges are.

    The judge "validation" sees one half of the held-out images, "judge", which reports, the other.
    """
    half = len(held_out) // 2
    first, second = held_out.take(np.arange(half)), held_out.take(np.arange(half, 2 * half))

    def measures(images, held_out, judge, repeats):
        labels = np.arange(len(images)) % n % 10
        report = evaluate(images, labels, held_out, judge, repeats=repeats).json()
        return {k: report[k] for k in ("accuracy", "frechet", "precision", "recall", "diversity")}

    def validate(name, images):
        values = {k: v["value"] for k, v in measures(images, first, judges["validation"], 1).items()}
        return values["frechet"], values

    report = partial(measures, held_out=second, judge=judges["judge"], repeats=15)
    right = {name: np.mean(judge(second.images)[0] == second.labels) for name, judge in judges.items()}
    rows = [Row({"judge": name}, {"accuracy": share}, {"images": half}) for name, share in right.items()]
    return {"validate": validate, "report": report}, rows


@benchmark()
def fashion(data: Path = DATA, folder: Path = MODELS) -> Iterator[Row]:
    """(trains the models of `quality`, in an hour on two cores) How good are the judges and the clean classifier?"""
    found = models(data, folder)
    for name in ("judge", "validation", "clean"):
        correct = getattr(found, name)(found.held_out.images)[0] == found.held_out.labels
        yield Row({"judge": name}, {"accuracy": np.mean(correct)})


TARGET = Path(__file__).parent.parent / "guidance_jax" / "zoo" / WEIGHTS
EXAMPLES = {
    "digits": Recipe(width=16, classifier_width=16, steps=3000, classifier_steps=1500),
    "fashion": dataclasses.replace(
        RECIPE, width=16, classifier_width=16, classifier_steps=1500, judge_width=32, judge_steps=6000
    ),
}


def store_weights(folder: Path, path: Path, parts: dict[str, str], held_out: Images | None = None) -> None:
    """The networks in folders of a folder as one file of half-precision weights, and held-out images."""
    arrays, found = {}, {name: read_config(folder / where) for name, where in parts.items()}
    for name, where in parts.items():
        for at, leaf in jax.tree_util.tree_leaves_with_path(read_params(folder / where)):
            arrays["/".join((name, *(str(p.key) for p in at)))] = np.asarray(leaf, np.float16)
    config = {name: found[name]["network"] for name in parts} | {
        "domain": found["model"]["domain"],
        "classifier_domain": found["classifier"]["domain"],
        "parameterization": found["model"]["parameterization"],
    }
    if held_out is not None:
        config["names"] = held_out.names
        arrays["held_out/images"] = to_uint8(held_out.images)[..., 0]
        arrays["held_out/labels"] = held_out.labels.astype(np.uint8)
    write_whole(path, lambda file: np.savez_compressed(file, config=json.dumps(config), **arrays))


@benchmark(quick={"steps": 3, "classifier_steps": 3, "judge_steps": 3})
def train_example(
    folder: Path,
    name: str = "digits",
    data: Path = DATA,
    steps: int | None = None,
    classifier_steps: int | None = None,
    judge_steps: int | None = None,
    target: Path = TARGET,
) -> Iterator[Row]:
    """(trains what ships with the package, "digits" in four minutes or "fashion" in half an hour) How good is it?

    Into `--folder`; the weights go to `--target`. Measured: the judge, and the model's own samples under it.
    """
    given = {"steps": steps, "classifier_steps": classifier_steps, "judge_steps": judge_steps}
    recipe = dataclasses.replace(EXAMPLES[name], **{k: v for k, v in given.items() if v is not None})
    parts = {"model": "denoiser", "classifier": "classifier"}
    if name == "digits":
        seen, held_out = digits().split()
    else:
        seen, held_out = idx(data, names=FASHION), idx(data, "t10k", names=FASHION)
        parts["judge"] = "judge"
    *_, judge = train(folder, seen, recipe, progress=True)
    store_weights(folder, target / f"{name}.npz", parts, held_out.take(np.arange(1000)) if "judge" in parts else None)
    yield Row({"judge": name}, {"accuracy": np.mean(judge(held_out.images)[0] == held_out.labels)})
