"""The networks of Dhariwal & Nichol 2021 (arXiv 2105.05233): U-Net, and its encoder half as a noisy classifier."""

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.core import Refused
from guidance_jax.zoo.layers import AttentionPool, Dense, GroupNorm, timestep_embedding, zeros
from guidance_jax.zoo.unet import ADM, UNet


class ADMUNet(UNet):
    """`apply(params, x (H, W, C), t, y) -> (H, W, out_channels)`, for one sample.

    Fields as in `zoo.unet.ADM`.

    `num_classes` is the number of label embeddings (the null label of conditioning dropout included), None for an
    unconditional network. `perturbation` makes the network worse on purpose, see `guidance.perturb`. With `scaled` the
    network takes the strength of guidance as `scale`, which is embedded like the clock. The last layer of this
    embedding starts at zero. So the parameters of a network without it, completed by `init`, give the same function.
    With `early` the network has a second head, on the decoder's maps when they reach the full resolution; see
    `TwoHeaded`.

    Raises:
      Refused: a label for an unconditional network, or none for a conditional one; sides that cannot be halved as often
        as there are levels.
    """

    num_classes: int | None = None
    scaled: bool = False

    @nn.compact
    def __call__(self, x, t, y=None, train=False, perturbation=None, scale=None):
        if (y is None) != (self.num_classes is None):
            raise Refused(f"the network has num_classes={self.num_classes}, got y={y}; pass a label or None to match")
        emb = self.embed(t)
        if self.num_classes is not None:
            emb = emb + nn.Embed(self.num_classes, 4 * self.model_channels, dtype=self.dtype, name="label_emb")(y)
        if self.scaled:
            h = timestep_embedding(100 * jnp.asarray(1.0 if scale is None else scale), self.model_channels)
            h = nn.silu(Dense(4 * self.model_channels, dtype=self.dtype, name="scale_embed_0")(h))
            emb = emb + Dense(4 * self.model_channels, kernel_init=zeros, dtype=self.dtype, name="scale_embed_2")(h)
        elif scale is not None:
            raise Refused("the network has no input for the scale; make it with scaled=True and train it, or use CFG")
        return self.unet(x, emb, train, perturbation)


class ADMClassifier(ADM):
    """`apply(params, x (H, W, C), t) -> logits (out_channels,)`, for one sample.

    Fields as in `zoo.unet.ADM`.

    `pool` is "attention" (OpenAI's classifiers) or "adaptive" (mean over the pixels, then a linear map).

    Raises:
      Refused: another `pool`; sides that cannot be halved as often as there are levels.
    """

    pool: str = "attention"

    @nn.compact
    def __call__(self, x, t, train=False):
        hs, _ = self.encode(x, self.embed(t), train)
        h = nn.silu(GroupNorm(self.groups, name="out_0")(hs[-1]))
        if self.pool == "adaptive":
            return Dense(self.out_channels, kernel_init=zeros, dtype=self.dtype, name="out_3")(jnp.mean(h, (0, 1)))
        if self.pool != "attention":
            raise Refused(f'pool must be "attention" or "adaptive", got {self.pool!r}; write pool="attention"')
        return AttentionPool(self.out_channels, self.heads(h.shape[-1]), self.dtype, name="out_2")(h)
