"""OpenAI's ADM checkpoints (Dhariwal & Nichol 2021): find the network of a state dict from its tensors alone.

Facts that shapes do not determine are known for OpenAI's releases, which their widths and depths identify (`UNETS`,
`CLASSIFIERS`). For any other checkpoint the caller must give them.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from guidance_jax.checkpoints.safetensors_file import shapes_of
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.models.domain import Domain
from guidance_jax.schedules import CosineBetas, LinearBetas, Schedule
from guidance_jax.zoo.adm.network import ADMClassifier, ADMUNet
from guidance_jax.zoo.guided_diffusion import architecture, complete, is_classifier, parameterization, signature
from guidance_jax.zoo.state_dict import UNKNOWN, Options, Recognized, shape_of


def _release(size: int, schedule: Schedule, *, heads=None, head_channels=None, new_order: bool = False) -> Options:
    return Options(size, schedule, heads, head_channels, new_order)


COSINE, LINEAR = CosineBetas(1000), LinearBetas(1000)
# (channels, blocks per level, channel multiples) of the released networks, and the flags in the repository's README
UNETS = {
    (192, 3, (1, 2, 3, 4)): _release(64, COSINE, head_channels=64, new_order=True),
    (256, 2, (1, 1, 2, 3, 4)): _release(128, LINEAR, heads=4),
    (256, 2, (1, 1, 2, 2, 4, 4)): _release(256, LINEAR, head_channels=64),
    (256, 2, (0.5, 1, 1, 2, 2, 4, 4)): _release(512, LINEAR, head_channels=64),
}
CLASSIFIERS = {
    (128, 4, (1, 2, 3, 4)): _release(64, COSINE, head_channels=64),
    (128, 2, (1, 1, 2, 3, 4)): _release(128, LINEAR, head_channels=64),
    (128, 2, (1, 1, 2, 2, 4, 4)): _release(256, LINEAR, head_channels=64),
    (128, 2, (0.5, 1, 1, 2, 2, 4, 4)): _release(512, LINEAR, head_channels=64),
}


def adm(state: Mapping[str, Any], known: Options = UNKNOWN) -> Recognized:
    """Return the U-Net or classifier of a guided-diffusion state dict.

    Args:
      state: a mapping from tensor names to arrays.
      known: options that the tensors do not determine; needed only if the network is none of OpenAI's releases.

    Raises:
      Refused: an upsampler, a foreign or incomplete state dict, a tensor of the wrong shape, or a missing option.
    """
    shapes = shapes_of(state)
    classifier = is_classifier(shapes)
    fields, image_channels = architecture(shapes)
    known = known.fill_from((CLASSIFIERS if classifier else UNETS).get(signature(fields), UNKNOWN))
    known = known.fill_from(Options(image_size=_image_size(shapes, len(fields["channel_mult"]))))
    size, schedule, more = complete(known, fields)
    fields |= more

    shape = (size, size, image_channels)
    x, t, y = jnp.zeros(shape), jnp.zeros(()), jnp.zeros((), int)
    if classifier:
        classes = fields["out_channels"]
        network: Any = ADMClassifier(**fields, pool="attention" if "out.2.c_proj.weight" in shapes else "adaptive")
        return Recognized(network, match_params(state, network, x, t), Domain(shape, schedule, classes), None)
    classes = shape_of(shapes, "label_emb.weight", 2)[0] if "label_emb.weight" in shapes else None
    network = ADMUNet(**fields, num_classes=classes)
    params = match_params(state, network, *((x, t) if classes is None else (x, t, y)))
    return Recognized(network, params, Domain(shape, schedule, classes), parameterization(fields, image_channels))


def _image_size(shapes: Mapping[str, tuple[int, ...]], levels: int) -> int | None:
    """Return the image size from the positions of a classifier's attention pooling: one per pixel and one more."""
    name = "out.2.positional_embedding"
    positions = shape_of(shapes, name, 2) if name in shapes else None
    return None if positions is None else round((positions[1] - 1) ** 0.5) * 2 ** (levels - 1)
