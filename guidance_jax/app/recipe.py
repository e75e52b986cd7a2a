"""The recipe of `guidance-jax train` and `demo`: denoiser, noisy classifier and judge for small labelled images."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from guidance_jax.checkpoints.config import config
from guidance_jax.checkpoints.store import Run
from guidance_jax.core import Bound, Refused
from guidance_jax.datasets.image_files import ImageFiles
from guidance_jax.datasets.images import Images
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.flows.flow import AutoregressiveFlow
from guidance_jax.flows.patchify import patchify
from guidance_jax.models import parameterizations
from guidance_jax.models.domain import Domain
from guidance_jax.models.network import Network, NoisyClassifier
from guidance_jax.schedules import Cosine
from guidance_jax.training.fit import State, _step, as_argument, fit, mirrored
from guidance_jax.training.flow_loss import FlowLikelihood
from guidance_jax.training.losses import Denoising, JudgeCrossEntropy, NoisyCrossEntropy
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.judge import Judge, TrainedJudge
from guidance_jax.zoo.load import load
from guidance_jax.zoo.tarflow.network import TarFlow, rows


@dataclass(frozen=True)
class Recipe:
    """Sizes and training settings; the defaults train on 8 x 8 digits in about three minutes on two CPU cores."""

    width: int = 24
    classifier_width: int = 32
    steps: int = 2000
    classifier_steps: int = 1200
    judge_steps: int = 500
    judge_width: int = 32
    batch: int = 64
    label_dropout: float = 0.2
    seed: int = 0
    rate: float = 3e-3
    ema: float = 0.995
    flip: bool = False
    dtype: str | None = None
    save_every: int = 500


DEFAULT = Recipe()
FLOW_NOISE = 0.1  # the standard deviation of the noise that is added to images in [-1, 1]
PRESETS = {
    "quick": Recipe(steps=30, classifier_steps=30, judge_steps=60),
    "small": DEFAULT,
    "standard": Recipe(
        width=96,
        classifier_width=64,
        steps=50_000,
        classifier_steps=10_000,
        judge_steps=4_000,
        judge_width=64,
        batch=128,
        rate=3e-4,
        ema=0.9999,
        save_every=1000,
    ),
}


def networks(shape: tuple[int, ...], classes: int, recipe: Recipe) -> tuple[ADMUNet, ADMClassifier]:
    """Return an ADM U-Net and classifier for images of `shape`; they halve the sides up to three times, down to 4.

    Raises:
      Refused: sides that cannot be halved even once; a width that the groups of the normalisation do not divide.
    """
    if recipe.width % 8 or recipe.classifier_width % 8:
        raise Refused(
            f"widths must be multiples of 8, got {recipe.width}; write --width {max(recipe.width // 8 * 8, 8)}"
        )
    halvings = 0
    sides = shape[:2]
    while all(side % 2 == 0 and side >= 8 for side in sides) and halvings < 3:
        sides, halvings = tuple(side // 2 for side in sides), halvings + 1
    if halvings == 0:
        raise Refused(f"images need even sides of 8 or more, got {shape}; resize or pad them")
    # the name of the type, for the configuration
    dtype = None if recipe.dtype is None else jnp.dtype(recipe.dtype).name
    common: dict[str, Any] = dict(
        num_res_blocks=1,
        attention_resolutions=(2**halvings,),
        channel_mult=(1, *[2] * halvings),
        groups=8,
        time_scale=1000.0,
        dtype=None if dtype == "float32" else dtype,
    )
    unet = ADMUNet(recipe.width, shape[-1], num_classes=classes + 1, **common)
    return unet, ADMClassifier(recipe.classifier_width, classes, **common)


def train(
    directory: str | Path,
    data: Images,
    recipe: Recipe = DEFAULT,
    *,
    progress: bool = False,
    mesh: Mesh | None = None,
    watch: Callable[[int, Any, list], None] | None = None,
) -> tuple[Network, NoisyClassifier, TrainedJudge]:
    """Train denoiser, classifier and judge into folders of those names in `directory`, or load those already trained.

    Args:
      directory: the folder of the three checkpoints.
      data: labelled training images.
      recipe: sizes and training settings.
      progress: whether to show progress bars.
      mesh: the devices over which a batch is split; None for the default device.
      watch: the argument `watch` of `fit` for the denoiser; None for none.

    Returns:
      (denoiser, noisy classifier, judge).
    """
    directory = Path(directory)
    return (
        train_denoiser(directory / "denoiser", data, recipe, progress=progress, mesh=mesh, watch=watch),
        train_classifier(directory / "classifier", data, recipe, progress=progress, mesh=mesh),
        train_judge(directory / "judge", data, recipe, progress=progress, mesh=mesh),
    )


def train_denoiser(
    directory: Path,
    data: Images,
    recipe: Recipe,
    *,
    progress: bool = False,
    mesh: Mesh | None = None,
    watch: Callable[[int, Any, list], None] | None = None,
) -> Network:
    """Train a class-conditional U-Net with conditioning dropout.

    It can be used alone, with CFG, and, with the null label, as the unconditional model of classifier guidance.
    """
    classes, schedule, v = len(data.names), Cosine(), parameterizations.v
    unet, _ = networks(data.shape, classes, recipe)
    # without dropout the null label is never trained, so the model has none
    null = classes if recipe.label_dropout > 0 else None
    fit_into(
        directory,
        config(
            unet,
            Domain(data.shape, schedule, classes, null_label=null),
            v,
            steps=recipe.steps,
            batch=recipe.batch,
            dropout=recipe.label_dropout,
            seed=recipe.seed,
        ),
        Denoising(unet.apply, schedule, v, null=null, dropout=recipe.label_dropout),
        lambda key: unet.init(key, jnp.zeros(data.shape), jnp.zeros(()), jnp.zeros((), jnp.int32)),
        data,
        steps=recipe.steps,
        rate=recipe.rate,
        seed=recipe.seed,
        progress="diffusion model " if progress else None,
        ema=recipe.ema,
        mesh=mesh,
        watch=watch,
        **usual(recipe),
    )
    return load(directory, Network)


def flow_network(shape: tuple[int, ...], classes: int, recipe: Recipe) -> TarFlow:
    """Return a flow for images of `shape`: patches of 4 or 2 pixels, four times as wide as the recipe's U-Net.

    Raises:
      Refused: sides that no patch larger than 1 divides.
    """
    height, width, channels = shape
    patch = next((size for size in (4, 2) if height % size == 0 and width % size == 0), None)
    if patch is None:
        raise Refused(f"images need even sides for a flow, got {shape}; resize or pad them")
    return TarFlow((height, width, channels), patch, 4 * recipe.width, 4, 2, classes, 32, FLOW_NOISE)


def train_flow(
    directory: Path,
    data: Images,
    recipe: Recipe,
    *,
    progress: bool = False,
    mesh: Mesh | None = None,
) -> AutoregressiveFlow:
    """Train a class-conditional autoregressive flow of patches with conditioning dropout."""
    classes = len(data.names)
    network = flow_network(data.shape, classes, recipe)
    null = classes if recipe.label_dropout > 0 else None
    fit_into(
        directory,
        config(
            network,
            Domain((network.patches, network.channels), None, classes, null_label=null),
            None,
            steps=recipe.steps,
            batch=recipe.batch,
            dropout=recipe.label_dropout,
            seed=recipe.seed,
        ),
        FlowLikelihood(
            Bound(rows, network),
            null=null,
            dropout=recipe.label_dropout,
            blocks=network.blocks,
            prepare=Bound(to_patches, network),
            noise=network.noise,
        ),
        lambda key: network.init(key, 0, jnp.zeros((network.patches, network.channels))),
        data,
        steps=recipe.steps,
        rate=recipe.rate / 3,
        seed=recipe.seed,
        progress="flow            " if progress else None,
        ema=recipe.ema,
        mesh=mesh,
        **usual(recipe),
    )
    return load(directory, AutoregressiveFlow)


def to_patches(network: TarFlow, image: Any) -> Any:
    return patchify(image, network.patch)


def train_classifier(
    directory: Path, data: Images, recipe: Recipe, *, progress: bool = False, mesh: Mesh | None = None
) -> NoisyClassifier:
    """Train a classifier of noisy images, log p(y | x_t)."""
    schedule, seed = Cosine(), recipe.seed + 1
    _, classifier = networks(data.shape, len(data.names), recipe)
    fit_into(
        directory,
        config(
            classifier,
            Domain(data.shape, schedule, len(data.names)),
            steps=recipe.classifier_steps,
            batch=recipe.batch,
            seed=seed,
        ),
        NoisyCrossEntropy(classifier.apply, schedule),
        lambda key: classifier.init(key, jnp.zeros(data.shape), jnp.zeros(())),
        data,
        steps=recipe.classifier_steps,
        rate=2e-3,
        seed=seed,
        progress="noisy classifier" if progress else None,
        mesh=mesh,
        **usual(recipe),
    )
    return load(directory, NoisyClassifier)


def train_judge(
    directory: Path, data: Images, recipe: Recipe, *, progress: bool = False, mesh: Mesh | None = None
) -> TrainedJudge:
    """Train the judge: a classifier of clean images with another architecture and seed than the guide. It measures."""
    judge, seed = Judge(len(data.names), recipe.judge_width), recipe.seed + 2
    domain = Domain(data.shape, Cosine(), len(data.names))
    fit_into(
        directory,
        config(judge, domain, steps=recipe.judge_steps, batch=recipe.batch, seed=seed),
        JudgeCrossEntropy(judge.apply),
        lambda key: judge.init(key, jnp.zeros(data.shape)),
        data,
        steps=recipe.judge_steps,
        rate=3e-3,
        seed=seed,
        progress="judge           " if progress else None,
        mesh=mesh,
        **usual(recipe),
    )
    return load(directory, TrainedJudge)


def usual(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `fit` that all networks of a recipe share."""
    augment = mirrored if recipe.flip else None
    return {"batch": recipe.batch, "augment": augment, "save_every": recipe.save_every}


def fit_into(
    directory: Path,
    setup: dict,
    loss: Callable,
    init: Callable,
    data: Images | Sequences,
    *,
    batch: int,
    steps: int,
    rate: float,
    seed: int,
    progress: str | None,
    ema: float = 0.995,
    **options: Any,
) -> None:
    """Train with AdamW, warm-up and cosine decay into `directory`, unless its training is complete.

    Of the further `options` of `fit`, `augment` is recorded in the configuration. `mesh`, `save_every` and `watch` do
    not change the result.
    """
    settings = {"rate": rate, "ema": ema, "flip": options.get("augment") is not None}
    training = {**setup["training"], **settings}
    run = Run(directory, {**setup, "training": training, "data": fingerprint(data)})
    watch = options.get("watch")
    if run.latest() == steps:
        # the training was stopped between its last save and its pictures, which the first process draws
        if watch is not None and not any(directory.glob("*.png")):
            state, losses = run.restore(None)
            if jax.process_index() == 0:
                watch(steps, state["ema"], losses)
        return
    options |= dict(optimizer=adamw(steps, rate), ema=ema, seed=seed, run=run, progress=progress)
    fit(loss, jax.jit(init)(jax.random.key(seed)), data, steps=steps, batch=min(batch, len(data)), **options)


def adamw(steps: int, rate: float) -> optax.GradientTransformation:
    """Return AdamW with warm-up over a fifteenth of the steps and cosine decay to 0."""
    return optax.adamw(optax.warmup_cosine_decay_schedule(0.0, rate, steps // 15, steps), weight_decay=0.01)


def fingerprint(data: Images | Sequences) -> str:
    """Return a short hash of the data, by which a checkpoint that was trained on other data is recognised."""
    if isinstance(data.samples, ImageFiles):  # reading all files would take as long as an epoch
        files = [(path.name, path.stat().st_size) for path in data.samples.paths]
        content = repr((data.samples.size, data.samples.mode, files)).encode()
    else:
        content = np.ascontiguousarray(data.samples).tobytes()
    digest = hashlib.sha256(content + data.labels.tobytes())
    return f"{len(data)} {type(data).__name__.lower()} {digest.hexdigest()[:16]}"


def step_memory(data: Images, recipe: Recipe) -> str:
    """Report the memory of a training step of the denoiser on one device, by compiling it; nothing is trained."""
    unet, _ = networks(data.shape, len(data.names), recipe)
    loss = Denoising(unet.apply, Cosine(), parameterizations.v, null=len(data.names), dropout=recipe.label_dropout)
    optimizer = adamw(recipe.steps, recipe.rate)

    def init(key):
        params = unet.init(key, jnp.zeros(data.shape), jnp.zeros(()), jnp.zeros((), jnp.int32))
        return State(jnp.zeros((), jnp.int32), params, params, optimizer.init(params))

    state = jax.eval_shape(init, jax.random.key(0))
    batch = min(recipe.batch, len(data))
    images = jax.ShapeDtypeStruct((batch, *data.shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    found = _step.lower(state, jax.random.key(0), images, labels, recipe.ema, as_argument(loss), optimizer).compile()
    sizes = found.memory_analysis()
    parts = {"weights and optimizer": sizes.argument_size_in_bytes, "temporary": sizes.temp_size_in_bytes}
    return ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in parts.items())
