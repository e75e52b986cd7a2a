"""Read OpenAI's GLIDE checkpoints (Nichol et al. 2021): the text-conditional U-Net, and its inpainting version."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from guidance_jax.checkpoints.safetensors_file import shapes_of
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.models.domain import Domain
from guidance_jax.schedules import CosineBetas
from guidance_jax.zoo.glide.network import GLIDEUNet
from guidance_jax.zoo.guided_diffusion import architecture, complete, parameterization, signature
from guidance_jax.zoo.state_dict import UNKNOWN, Options, Recognized, shape_of

RELEASES = {(192, 3, (1, 2, 3, 4)): Options(64, CosineBetas(1000), None, 64, False)}
IMAGE, INPAINT = 3, 7  # input channels: the image; or the noisy image, the known image and its mask


def is_glide(state: Mapping[str, Any]) -> bool:
    return any(k.startswith("transformer.resblocks.") for k in state)


def glide(state: Mapping[str, Any], known: Options = UNKNOWN) -> Recognized:
    """Return the text-conditional U-Net of a GLIDE state dict. Its text transformer has 64 channels per head.

    Classifier-free guidance is `CFG(model, null=jnp.full(text_ctx, -1), scale)`. It guides the noise; the learned
    variance stays that of the caption, as in OpenAI's notebooks. `model.encode(tokens)` encodes captions once, before
    sampling.

    Raises:
      Refused: an upsampler, a foreign or incomplete state dict, a tensor of the wrong shape, or a missing option.
    """
    shapes = shapes_of(state)
    fields, channels = architecture(shapes, (IMAGE, INPAINT))
    known = known.fill_from(RELEASES.get(signature(fields), UNKNOWN))
    size, schedule, more = complete(known, fields)
    length, width = shape_of(shapes, "positional_embedding", 2)
    layers = len({k.split(".")[2] for k in shapes if k.startswith("transformer.resblocks.")})
    network = GLIDEUNet(
        **fields,
        **more,
        text_ctx=length,
        xf_width=width,
        xf_layers=layers,
        xf_heads=max(width // 64, 1),
        vocabulary=shape_of(shapes, "token_embedding.weight", 2)[0],
        inpaint=channels == INPAINT,
    )
    shape = (size, size, IMAGE)
    params = match_params(state, network, jnp.zeros(shape), jnp.zeros(()), jnp.zeros(length, int))
    context = (("context", (length, width)),)
    domain = Domain(shape, schedule, text_length=length, context=context)
    return Recognized(network, params, domain, parameterization(fields, IMAGE))
