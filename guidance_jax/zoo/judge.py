"""A small classifier of clean images, which measures samples. No guide has its architecture, and it never guides."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import pytree, static
from guidance_jax.zoo.layers import Conv, Dense, GroupNorm


class Judge(nn.Module):
    """A plain convolutional network: `apply(params, x (H, W, C)) -> (logits (num_classes,), features (4 width,))`."""

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


@pytree
class TrainedJudge:
    """A clean classifier with features: `apply(params, x) -> (logits, features)`."""

    params: Any
    apply: Any = static()

    def __call__(self, images: np.ndarray, batch: int = 500) -> tuple[np.ndarray, np.ndarray]:
        """Return (predicted labels, features) of images, computed at the highest matmul precision."""
        parts = [_judge(self, jnp.asarray(images[i : i + batch])) for i in range(0, len(images), batch)]
        labels, features = (np.concatenate([np.asarray(p[j]) for p in parts]) for j in (0, 1))
        return labels, features


@jax.jit
def _judge(judge: TrainedJudge, images: Any) -> tuple[Any, Any]:
    with jax.default_matmul_precision("highest"):
        logits, features = jax.vmap(partial(judge.apply, judge.params))(images)
    return jnp.argmax(logits, -1), features
