"""A small clean-image classifier to measure samples with: another architecture than any guide, and never a guide."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from guidance_jax.networks.layers import Conv, Dense, GroupNorm


class Judge(nn.Module):
    """`apply(params, x (H, W, C)) -> (logits (num_classes,), features (4 width,))`: a plain convolutional network."""

    num_classes: int
    width: int = 32
    dropout: float = 0.3
    dtype: Any = None

    @nn.compact
    def __call__(self, x, train=False):
        for i, features in enumerate((self.width, 2 * self.width, 4 * self.width)):
            stride = 1 if i == 0 else 2
            x = Conv(features, stride=stride, dtype=self.dtype, name=f"conv_{i}")(x)
            x = nn.gelu(GroupNorm(8, name=f"norm_{i}")(x))
        features = jnp.mean(x, (0, 1))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(features)
        return Dense(self.num_classes, dtype=self.dtype, name="head")(hidden), features
