"""The authors' checkpoints of TarFlow: a state dict of `blocks.k. ...` and `var`."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from guidance_jax.checkpoints.safetensors_file import shapes_of
from guidance_jax.checkpoints.tensors import numbers
from guidance_jax.core import Refused
from guidance_jax.flows.flow import AutoregressiveFlow
from guidance_jax.zoo.state_dict import shape_of
from guidance_jax.zoo.tarflow.network import TarFlow, flow

LAYER = {
    "ln_1": "attention.norm",
    "attn_c_attn": "attention.qkv",
    "attn_c_proj": "attention.proj",
    "ln_2": "mlp.norm",
    "mlp_c_fc": "mlp.main.0",
    "mlp_c_proj": "mlp.main.2",
}


def tarflow(state: Mapping[str, Any], patch: int, *, head: int = 64, noise: float = 0.0) -> AutoregressiveFlow:
    """Return the flow of a state dict with the authors' names. Its samples are patches (T, C), made by `patchify`.

    Args:
      state: a mapping from tensor names to arrays; `checkpoints.read_torch` reads one from a file.
      patch: the side of a patch in pixels, the first number of the authors' file names.
      noise: the standard deviation of the noise of training, the last number of their file names.
      head: the number of channels of an attention head, which tensors do not determine; 64 in all published models.

    Raises:
      Refused: a tensor that is missing, left over or of the wrong shape; numbers that are not finite; a prior that is
        not N(0, I); a patch or a head that does not fit.
    """
    shapes = shapes_of(state)
    patches, width = shape_of(shapes, "blocks.0.pos_embed", 2)
    channels = shape_of(shapes, "blocks.0.proj_in.weight", 2)[1]
    if shape_of(shapes, "blocks.0.proj_out.weight", 2)[0] != 2 * channels:
        raise Refused("the checkpoint transforms patches by a shift alone (nvp=False); its scale is missing")
    side = math.isqrt(patches)
    if channels % patch**2 or side**2 != patches:
        raise Refused(
            f"{patches} patches of {channels} numbers do not form a square image with patches of size {patch}"
        )
    classes = shapes["blocks.0.class_embed"][0] if "blocks.0.class_embed" in shapes else 0
    blocks = len({name.split(".")[1] for name in shapes if name.startswith("blocks.")})
    layers = len({name.split(".")[3] for name in shapes if name.startswith("blocks.0.attn_blocks.")})
    rest = dict(state)

    def take(name: str, *shape: int) -> Any:
        """Return a tensor of all blocks, stacked."""
        found = []
        for block in range(blocks):
            own = f"blocks.{block}.{name}"
            if own not in rest:
                raise Refused(f"the checkpoint has no tensor {own}")
            value = numbers(rest.pop(own), own)
            if value.shape != shape:
                raise Refused(f"{own} has shape {value.shape}, expected {shape}")
            found.append(value)
        return np.stack(found)

    def linear(name: str, inputs: int, outputs: int) -> dict[str, Any]:
        weight = np.swapaxes(take(f"{name}.weight", outputs, inputs), 1, 2)
        return {"kernel": weight, "bias": take(f"{name}.bias", outputs)}

    sizes = {"attn_c_attn": (width, 3 * width), "attn_c_proj": (width, width)}
    sizes |= {"mlp_c_fc": (width, 4 * width), "mlp_c_proj": (4 * width, width)}
    params = {
        "proj_in": linear("proj_in", channels, width),
        "pos_embed": take("pos_embed", patches, width),
        "proj_out": linear("proj_out", width, 2 * channels),
    }
    for layer in range(layers):
        params[f"attn_blocks_{layer}"] = {
            own: linear(f"attn_blocks.{layer}.{name}", *sizes[own])
            if own in sizes
            else {
                "scale": take(f"attn_blocks.{layer}.{name}.weight", width),
                "bias": take(f"attn_blocks.{layer}.{name}.bias", width),
            }
            for own, name in LAYER.items()
        }
    if classes:
        params["class_embed"] = take("class_embed", classes, 1, width)[:, :, 0]
    if "var" in rest and not np.allclose(np.asarray(rest.pop("var")), 1):
        raise Refused("the prior of the checkpoint is not N(0, I) (nvp=False)")
    left = sorted(name for name in rest if not name.endswith(".attn_mask"))
    if left:
        raise Refused(f"the checkpoint has a tensor that TarFlow does not have: {left[0]}")
    shape = (side * patch, side * patch, channels // patch**2)
    network = TarFlow(shape, patch, width, blocks, layers, classes, head, noise)
    return flow(network, {"params": {"blocks": jnp_tree(params)}})


def jnp_tree(tree: dict[str, Any]) -> dict[str, Any]:
    """Put nested dictionaries of arrays on the device in float32."""
    return {k: jnp_tree(v) if isinstance(v, dict) else jnp.asarray(v, jnp.float32) for k, v in tree.items()}
