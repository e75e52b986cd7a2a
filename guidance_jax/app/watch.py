"""Draw pictures of a training run at every save."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from guidance_jax.app.recipe import Recipe, networks
from guidance_jax.datasets.images import Images
from guidance_jax.guidance.clip import Clip
from guidance_jax.kernels.reverse import Reverse
from guidance_jax.models import parameterizations
from guidance_jax.models.network import Network
from guidance_jax.pictures import contact_sheet, save_curve
from guidance_jax.sample import generate, keys
from guidance_jax.schedules import Cosine
from guidance_jax.solvers.ddim import DDIM


def draw_progress(folder: Path, data: Images, recipe: Recipe) -> Callable[[int, Any, list], None]:
    """Return a `watch` for `fit` that draws two samples of each class, of at most ten, and the curve of the loss."""
    classes, schedule = min(len(data.names), 10), Cosine()
    unet, _ = networks(data.shape, len(data.names), recipe)
    labels = np.repeat(np.arange(classes, dtype=np.int32), 2)

    def watch(step: int, params: Any, losses: list) -> None:
        model = Network(params, unet.apply, parameterizations.v, batched=False)
        kernel = Reverse(Clip(model), DDIM())
        images = np.asarray(generate(keys(0, len(labels)), kernel, schedule.levels(20), data.shape, labels))
        pairs = {data.names[i]: images[2 * i : 2 * i + 2] for i in range(classes)}
        contact_sheet(folder / "progress.png", pairs)
        save_curve(folder / "loss.png", losses, f"diffusion model, {step} steps")

    return watch
