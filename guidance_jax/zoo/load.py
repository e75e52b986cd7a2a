"""Open any folder of a model: from training, from `convert`, or downloaded from diffusers or Hugging Face."""

from pathlib import Path
from typing import Any, TypeVar

from guidance_jax.core import Refused
from guidance_jax.models.network import Network
from guidance_jax.untrusted import folder_at
from guidance_jax.zoo.diffusers.folder import INDEX, load_diffusers
from guidance_jax.zoo.networks import load_network
from guidance_jax.zoo.pipeline import Pipeline
from guidance_jax.zoo.pipeline_parts import ABOUT, PipelineParts
from guidance_jax.zoo.rotary.gemma_reader import KIND, load_canvas
from guidance_jax.zoo.rotary.pipeline import is_text, kind_of_text, load_text

T = TypeVar("T")


def load(folder: str | Path, kind: type[T] | None = None, dtype: str | None = None, remat: bool = False) -> T:
    """Load the model of a folder: a network with its EMA parameters, or a `Pipeline` of several parts.

    Args:
      folder: the path. A checkpoint of training, `save`, `save_params` or `guidance-jax convert`, from any number of
        devices, gives its network. A folder with a checkpoint `denoiser`, or one downloaded from diffusers, gives a
        `Pipeline`; `load_diffusers` has more options. A folder with a `model` of tokens gives that model. A language or
        protein model in the layout of Hugging Face gives a `TextPipeline`, and DiffusionGemma a `CanvasPipeline`.
      kind: the expected type, for example `Network`, `NoisyClassifier` or `Pipeline`; None accepts every type.
      dtype: the dtype in which networks compute, such as "bfloat16"; None for float32. Guidance stays float32, and so
        do the parameters of a single network.
      remat: whether residual blocks are recomputed in gradients through the network, which then need less memory.

    Raises:
      Refused: a missing, foreign, damaged or unfinished checkpoint, or one of another kind; parameters that are not
        those of their network, or not finite.
    """
    folder = folder_at(folder)
    model: Any
    if (folder / INDEX).exists():
        model = load_diffusers(folder, dtype, remat=remat)
    elif is_text(folder):
        model = load_canvas(folder, dtype) if kind_of_text(folder) == KIND else load_text(folder, dtype)
    elif is_pipeline(folder):
        model = PipelineParts.read(folder).assemble(dtype, remat)
    elif not (folder / "config.json").exists() and denoiser_in(folder).is_dir():
        model = load_network(denoiser_in(folder), dtype, remat)
        model = Pipeline(model, clip=1.0) if isinstance(model, Network) else model
    else:
        model = load_network(folder, dtype, remat)
    if kind is not None and not isinstance(model, kind):
        raise Refused(f"{folder} holds a {type(model).__name__}, expected a {kind.__name__}; pass the folder of one")
    return model


def denoiser_in(folder: str | Path) -> Path:
    """Return the folder of the denoiser among trained models: `model` for sequences, else `denoiser`."""
    folder = Path(folder)
    return folder / "model" if (folder / "model" / "config.json").exists() else folder / "denoiser"


def is_pipeline(folder: str | Path) -> bool:
    """Return whether a folder holds a pipeline: an autoencoder, text encoders or a tokenizer beside the denoiser."""
    folder = Path(folder)
    return any((folder / name).exists() for name in (INDEX, ABOUT, "autoencoder", "denoiser/tokenizer.json"))
