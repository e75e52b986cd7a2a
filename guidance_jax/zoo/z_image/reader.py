"""Read Z-Image's transformer by the names of diffusers."""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from guidance_jax.checkpoints.safetensors_file import Renamed
from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.core import Refused
from guidance_jax.untrusted import whole_number
from guidance_jax.zoo.z_image.network import ZImage

WHERE = "transformer"
# options that configuration files may leave out, with the defaults of diffusers' class
DEFAULTS: dict[str, Any] = {
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "norm_eps": 1e-5,
    "qk_norm": True,
    "cap_feat_dim": 2560,
    "rope_theta": 256.0,
    "t_scale": 1000.0,
    "axes_dims": [32, 48, 48],
}


def z_image(state: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[ZImage, dict]:
    """Return (network, parameters) of diffusers' `ZImageTransformer2DModel`.

    Args:
      state: a mapping from tensor names to arrays.
      about: the content of its `config.json`.

    Raises:
      Refused: heads that share keys, no norm of queries and keys, or axes that do not fill a head; a tensor that is
        missing, left over or of the wrong shape.
    """
    width, heads = whole_number(about, "dim", WHERE), whole_number(about, "n_heads", WHERE)
    axes = tuple(about["axes_dims"])
    if about["n_kv_heads"] != heads or not about["qk_norm"] or len(axes) != 3 or sum(axes) * heads != width:
        raise Refused(
            f"the transformer has {heads} heads of {axes}, {about['n_kv_heads']} of keys, which is not supported"
        )
    network = ZImage(
        width=width,
        heads=heads,
        channels=whole_number(about, "in_channels", WHERE),
        depth=whole_number(about, "n_layers", WHERE),
        refiners=whole_number(about, "n_refiner_layers", WHERE),
        axes=(int(axes[0]), int(axes[1]), int(axes[2])),
        theta=float(about["rope_theta"]),
        scale=float(about["t_scale"]),
        eps=float(about["norm_eps"]),
    )
    named = Renamed(state, {name_in(k): k for k in state})
    cond = {"context": jnp.zeros((32, whole_number(about, "cap_feat_dim", WHERE))), "real": jnp.zeros(32)}
    return network, match_params(named, network, jnp.zeros((4, 4, network.channels)), jnp.zeros(()), cond)


def name_in(key: str) -> str:
    """Translate diffusers' name of a tensor to the name in this network."""
    key = re.sub(r"^all_(x_embedder|final_layer)\.2-1\.", r"\1.", key)
    return re.sub(r"^(noise|context)_refiner\.", r"\1_blocks.", key)
