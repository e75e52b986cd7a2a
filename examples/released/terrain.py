"""Height fields of 128 x 128 (adaptive-terrain-diffusion 0.4.2, MIT): a U-Net distilled to one step, by difficulty.

The released network was distilled at its highest noise: f(80 z), z ~ N(0, I), is a height field. Asked at lower noise
  it passes the noise on, so it is a generator and no denoiser, and sampling it in several steps only roughens it.
  Diffusion over z is exact, as for any generator (`released.faces`), and guides through f.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from guidance_jax.checkpoints.tensors import match_params
from guidance_jax.core import pytree, static
from guidance_jax.zoo.adm.network import UNet
from guidance_jax.zoo.guided_diffusion import architecture
from guidance_jax.zoo.layers import Dense
from released.carried import Carried, Package
from released.onnx_file import read_onnx

TERRAIN = Carried(
    Package("adaptive-terrain-diffusion", "0.4.2", "dd803be2c98d764e4e64db18c631eef46c210282b398c4dd080f4cda3fa7c84d"),
    "terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx",
    "95be54b4a39d58320e187a7ec533351c957f16a00be58773c86074828ee67887",
)
SHAPE, SIZE = (128, 128, 1), 128 * 128
HIGHEST, LOWEST, DATA = 80.0, 0.002, 0.5  # sigma of the one step, sigma of clean fields, standard deviation of them
SCALE, TOP = 0.1, 22.16864013671875  # metres


class TerrainUNet(UNet):
    """ADM's U-Net, told a difficulty from 0 to 1 in the place of a label, and log sigma in that of time."""

    @nn.compact
    def __call__(self, x, t, difficulty, train=False):
        width = 4 * self.model_channels
        emb = self.embed(t)
        own = nn.silu(Dense(width, name="label_emb_0")(jnp.reshape(difficulty, (1,))))
        return self.unet(x, emb + Dense(width, name="label_emb_2")(own), train)


@pytree
class Terrain:
    """z (16384,) to a field (128, 128, 1), about -1 to 1, of a difficulty from 1 to 100; `metres` has its unit.

    Attributes:
      params: of the network.
      difficulty: a number.
    """

    params: Any
    apply: Callable = static()
    difficulty: Any = 50.0

    def at(self, x: Any, sigma: Any) -> Any:
        """f(x; sigma), as distilled, before it is clipped to -1 and 1."""
        told = self.apply(self.params, x / jnp.sqrt(sigma**2 + DATA**2), jnp.log(sigma), (self.difficulty - 1.0) / 99.0)
        skip = DATA**2 / ((sigma - LOWEST) ** 2 + DATA**2)
        return skip * x + DATA * (sigma - LOWEST) / jnp.sqrt(sigma**2 + DATA**2) * told

    def __call__(self, z: Any) -> Any:
        return self.at(HIGHEST * z.reshape(SHAPE), jnp.asarray(HIGHEST, z.dtype))


def metres(field: Any) -> Any:
    """Heights above 0 of a field from -1 to 1: 0.1 sinh((field + 1) / 2 asinh(22.17 / 0.1))."""
    return SCALE * jnp.sinh((jnp.clip(field, -1, 1) + 1) / 2 * jnp.arcsinh(TOP / SCALE))


def field_of(heights: Any) -> Any:
    """The field, from -1 to 1, of heights in metres: the inverse of `metres`."""
    return 2 * jnp.arcsinh(heights / SCALE) / jnp.arcsinh(TOP / SCALE) - 1


def terrain(difficulty: float = 50.0, path: str | Path | None = None, *, download: bool = False) -> Terrain:
    """The network, 10.5 million parameters.

    Raises:
      Refused: its file is missing (the message says how to get it) or another one; onnx is not installed.
    """
    state = read_onnx(TERRAIN.read(path, download=download))
    fields, _ = architecture({name: a.shape for name, a in state.items()})
    network = TerrainUNet(**fields, num_head_channels=32, use_new_attention_order=True, time_scale=250.0)
    params = match_params(state, network, jnp.zeros(SHAPE), jnp.zeros(()), jnp.zeros(()))
    return Terrain(jax.device_put(params), network.apply, difficulty)
