"""Read single files of Stable Diffusion 3 and 3.5 and FLUX.1 as the parts of a pipeline."""

from collections.abc import Mapping
from typing import Any

from guidance_jax.checkpoints.config import config
from guidance_jax.core import Refused
from guidance_jax.zoo.diffusers.folder import FLUX, SD3, length_of, multimodal
from guidance_jax.zoo.diffusers.scheduler import FLOW_MATCHING, process
from guidance_jax.zoo.mmdit import reader as mmdit
from guidance_jax.zoo.mmdit.single_file import describe_t5, is_multimodal_file, name_as_diffusers
from guidance_jax.zoo.pipeline_parts import PipelineParts
from guidance_jax.zoo.stable_diffusion.names import autoencoder, clip_text
from guidance_jax.zoo.stable_diffusion.single_file import AUTOENCODER, UNET, describe_encoder, under

TEXTS = {"clip_l": "quick_gelu", "clip_g": "gelu", "t5xxl": None}  # text encoder: the activation of a CLIP
LATENTS = {SD3: {"mean": 0.0609, "std": 1 / 1.5305}, FLUX: {"mean": 0.1159, "std": 1 / 0.3611}}


def is_file_of_transformer(state: Mapping[str, Any]) -> bool:
    return is_multimodal_file(state, UNET)


def file_of_transformer(state: Mapping[str, Any], groups: int = 32) -> PipelineParts:
    """Return the parts of a single file of Stable Diffusion 3 or 3.5 or FLUX.1: the transformer, and others it holds.

    Args:
      state: a mapping from tensor names to arrays.
      groups: the number of groups of the norms in the autoencoder.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape.
    """
    prefix = UNET if any(k.startswith(UNET) for k in state) else ""
    parts = (UNET, AUTOENCODER, *(f"text_encoders.{text}." for text in TEXTS))
    strange = next((k for k in state if prefix and not k.startswith(parts)), None)
    if strange is not None:
        raise Refused(f"the single file has {strange[:200]}, which belongs to none of {', '.join(parts)}")
    named, about = name_as_diffusers(under(state, prefix))
    name = FLUX if about["_class_name"].startswith("Flux") else SD3
    found = PipelineParts({})
    if any(k.startswith(AUTOENCODER) for k in state):
        network, params = autoencoder(under(state, AUTOENCODER), groups)
        found.parts["autoencoder"] = config(network, None, latents=LATENTS[name]), params
    held = [text for text in TEXTS if any(k.startswith(f"text_encoders.{text}.") for k in state)]
    for i, text in enumerate(held):
        own, activation = under(state, f"text_encoders.{text}.transformer."), TEXTS[text]
        if activation is None:
            network, params = mmdit.t5(own, describe_t5(own.shapes()), length_of(name, about))
        else:
            network, params = clip_text(own, describe_encoder(own, activation), int(name == SD3))
        found.parts["text" + f"_{i + 1}" * (i > 0)] = config(network, None), params
    moving = name == FLUX and about["guidance_embeds"]
    shift = {"use_dynamic_shifting": moving, "shift": 3.0 if name == SD3 else 1.0}
    multimodal(found, named, about, process({"_class_name": FLOW_MATCHING, **shift}), flux=name == FLUX)
    return found
