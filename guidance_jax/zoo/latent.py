"""The parts beside a denoiser of latents: the autoencoder, which turns latents into pictures, and the text encoder."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, normal, pytree, static
from guidance_jax.zoo.mmdit.t5 import T5Encoder
from guidance_jax.zoo.rotary.states import LanguageStates
from guidance_jax.zoo.stable_diffusion.clip import CLIPText
from guidance_jax.zoo.stable_diffusion.vae import AutoencoderKL
from guidance_jax.zoo.tokenizer import Tokenizer
from guidance_jax.zoo.word_weights import read_weights


@pytree
class Autoencoder:
    """Turn latents into pictures and back. Denoisers see (z - mean) / std, where z are the network's own latents.

    Attributes:
      params: the parameters of `network`.
      network: the module.
      mean: what is subtracted from the network's latents, a number or one per channel.
      std: what they are divided by then, a number or one per channel. Stable Diffusion's scaling factor is 1 / std.
    """

    params: Any
    network: AutoencoderKL = static()
    mean: Any = 0.0
    std: Any = 1.0

    @property
    def factor(self) -> int:
        """The number of pixels per latent, in each direction."""
        return 2 ** (len(self.network.channels) - 1)

    def decode(self, latents: Any, tile: int | None = None) -> np.ndarray:
        """Return the pictures (n, factor h, factor w, 3) of latents, approximately in [-1, 1]: nothing is clipped.

        Pictures are decoded one at a time, in one compiled program.

        Args:
          latents: samples of the denoiser, (n, h, w, channels).
          tile: the side of square tiles, in latents, 8 or more. Tiles are decoded one by one and blended where they
            overlap, by a quarter of a tile. A large picture then needs the memory of one tile. The attention in the
            network sees one tile only, so pictures differ slightly. None decodes a picture as a whole.

        Raises:
          Refused: latents of another number of channels, a tile smaller than 8.
        """
        shape = np.shape(latents)
        if len(shape) != 4 or shape[-1] != self.network.latent_channels:
            raise Refused(f"latents have {self.network.latent_channels} channels, (n, h, w, c), got shape {shape}")
        if tile is not None and tile < 8:
            raise Refused(f"a tile must have 8 latents or more on a side, got {tile}")
        return np.asarray(_decode(self, jnp.asarray(latents, jnp.float32), tile))

    def encode(self, pictures: Any, key: Any = None) -> np.ndarray:
        """Return the latents of pictures (n, H, W, 3) in [-1, 1]: their means, or draws if a `key` is given."""
        return np.asarray(_encode(self, jnp.asarray(pictures, jnp.float32), key))


@partial(jax.jit, static_argnums=2)
def _decode(own: Autoencoder, latents: Any, tile: int | None) -> Any:
    def whole(z):
        return own.network.apply(own.params, z, method="decode")

    def one(z):
        z = z * own.std + own.mean
        return whole(z) if tile is None or max(z.shape[:2]) <= tile else decode_tiles(whole, z, tile, own.factor)

    return jax.lax.map(one, latents)


def decode_tiles(decode: Any, z: Any, tile: int, factor: int) -> Any:
    """Decode square tiles of z (h, w, c) and blend them, weighted by ramps over a quarter of a tile at their edges."""
    sides = [min(tile, n) for n in z.shape[:2]]
    starts = [
        sorted({*range(0, n - side, side - side // 4), n - side}) for n, side in zip(z.shape, sides, strict=False)
    ]
    corners = jnp.asarray([(a, b) for a in starts[0] for b in starts[1]])

    def ramp(side):
        pixels = jnp.arange(side * factor)
        return jnp.minimum(jnp.minimum(pixels + 1, side * factor - pixels) / (max(side // 4, 1) * factor), 1.0)

    weight = (ramp(sides[0])[:, None] * ramp(sides[1]))[..., None]

    def add(sums, corner):
        part = decode(jax.lax.dynamic_slice(z, (*corner, 0), (*sides, z.shape[-1]))).astype(jnp.float32)
        at = (*(corner * factor), 0)
        return tuple(
            jax.lax.dynamic_update_slice(total, jax.lax.dynamic_slice(total, at, new.shape) + new, at)
            for total, new in zip(sums, (part * weight, weight), strict=True)
        ), None

    shape = z.shape[0] * factor, z.shape[1] * factor
    channels = jax.eval_shape(decode, jax.ShapeDtypeStruct((*sides, z.shape[-1]), z.dtype)).shape[-1]
    (total, weights), _ = jax.lax.scan(add, (jnp.zeros((*shape, channels)), jnp.zeros((*shape, 1))), corners)
    return total / weights


@jax.jit
def _encode(own: Autoencoder, pictures: Any, key: Any) -> Any:
    def one(x, key):
        mean, log_variance = own.network.apply(own.params, x, method="encode")
        drawn = mean if key is None else mean + jnp.exp(log_variance / 2) * normal(key, mean)
        return (drawn - own.mean) / own.std

    if key is None:
        return jax.lax.map(lambda x: one(x, None), pictures)
    return jax.lax.map(lambda pair: one(*pair), (pictures, jax.random.split(key, len(pictures))))


@pytree
class TextEncoder:
    """Turn n captions into conditions: {"context": (n, L, width)} and the network's other outputs, such as "pooled".

    Each chunk of a caption takes one network call.

    Attributes:
      params: the parameters of `network`.
      network: the module.
      tokenizer: turns captions into tokens; None if the checkpoint has none.
      chunks: the number of pieces that a caption is cut into. Their states follow each other, (chunks L, width); other
        outputs are those of the first chunk.
    """

    params: Any
    network: CLIPText | T5Encoder | LanguageStates = static()
    tokenizer: Tokenizer | None = static(default=None)
    chunks: int = static(default=1)

    def __call__(self, captions: Sequence[str], weighted: bool = False, cut: bool = False) -> dict[str, Any]:
        """Encode captions.

        If `weighted`, words may have weights, as in "a (red:1.3) cat"; this takes one more network call. If `cut`, a
        caption that is too long is cut instead of refused.

        Raises:
          Refused: no tokenizer, a caption that is too long, weights that cannot be read.
        """
        if self.tokenizer is None:
            raise Refused(
                "the text encoder came without a tokenizer; put its tokenizer.json into the folder of the encoder"
            )
        read = [read_weights(caption) if weighted else (caption, [1.0] * len(caption)) for caption in captions]
        if self.chunks > 1:
            read = [piece for one in read for piece in split_caption(self.tokenizer, self.chunks, *one)]
        found = _encode_text(self, jnp.asarray(self.tokenizer([plain for plain, _ in read], cut)))
        if weighted:
            weights = jnp.asarray([self.tokenizer.weigh(*one) for one in read])[..., None]
            empty = _encode_text(self, jnp.asarray(self.tokenizer([""])))["context"]
            found |= {"context": empty + weights.astype(empty.dtype) * (found["context"] - empty)}
        context = found["context"].reshape(len(captions), -1, found["context"].shape[-1])
        return {"context": context} | {k: v[:: self.chunks] for k, v in found.items() if k != "context"}


def split_caption(
    tokenizer: Tokenizer, chunks: int, caption: str, weights: list[float]
) -> list[tuple[str, list[float]]]:
    """Cut a caption into `chunks` pieces that fit, each with the weights of its characters; the last may be empty."""
    spans = tokenizer.split(caption, chunks)
    spans += [(len(caption), len(caption))] * (chunks - len(spans))
    return [(caption[a:b], weights[a:b]) for a, b in spans]


@jax.jit
def _encode_text(own: TextEncoder, tokens: Any) -> Any:
    return jax.lax.map(lambda row: own.network.apply(own.params, row), tokens)
