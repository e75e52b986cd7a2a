"""Spaces: what a sample is. Gaussian diffusion here; tokens in `discrete.process`, text in `text.sequence`."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Key
from guidance_jax.core.arithmetic import normal
from guidance_jax.core.levels import Level
from guidance_jax.core.pytrees import pytree


class Space:
    """What a sample is, what a level means, where sampling starts, and which prediction its denoisers make.

    A denoiser HAS a space, a value that can be compared: `Absorbing(21)`. A method or a solver TAKES a class of
    spaces, `takes = Absorbing`, since it serves every vocabulary.
    """

    kind: ClassVar[str] = "samples"  # in refusals
    solver: ClassVar[str] = "DDIM()"  # one that takes it, in refusals

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """What the forward process leaves at the noisiest level of data with little or no signal."""
        raise NotImplementedError

    def start_std(self, levels: Level) -> Any:
        """The standard deviation of the noise that sampling starts from; None if it starts from none."""
        return None

    def flat(self, x: Any, level: Level) -> Any:
        """The prediction of a model that prefers nothing: density constant, tokens equally likely."""
        raise NotImplementedError

    def free(self, x: Any) -> Any:
        """The positions that a model decides, (L,): all, unless some are decided already."""
        return jnp.ones(len(x), bool)

    def check(self, levels: Level, shape: tuple[int, ...]) -> None:
        """Raise `Refused` unless samples of `shape` can be made on `levels`."""

    def check_finished(self, levels: Level) -> None:
        """Raise `Refused` if the last of `levels` is known and samples are not finished there."""

    def mark_unfinished(self, x: Any) -> Any:
        """A sample at the end of its levels; tokens that are still masks are `FAILED`."""
        return x

    def mark_foreign(self, x: Any) -> Any:
        """What sampling starts from, as given; tokens outside the vocabulary are `FAILED`."""
        return x


@pytree
class Prediction:
    """A noisy point split into signal and noise, x_t = alpha x0 + sigma eps. Gaussian solvers read nothing else.

    `variance_fraction` is for models with a learned variance only: 0 is the smallest reverse variance (beta-tilde),
    1 the largest (beta), interpolated in the logarithm. The variance itself depends on the next level, which a
    denoiser never sees, so it is the solver that turns the fraction into a variance.

    Attributes:
      x0: (*event), the clean estimate E[x_0 | x_t].
      eps: (*event), the noise that goes with it.
      variance_fraction: (*event) in [0, 1], or None.
    """

    x0: Any
    eps: Any
    variance_fraction: Any = None

    @staticmethod
    def split(x: Float[Array, "*event"], x0: Float[Array, "*event"], level: Level) -> "Prediction":
        """The prediction at `x` whose clean estimate is `x0`."""
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    def towards(self, x0: Float[Array, "*event"], level: Level) -> "Prediction":
        """New clean estimate, same point x: the noise takes up the difference (scores, CFG, classifiers, clipping)."""
        eps = self.eps + level.alpha / level.sigma * (self.x0 - x0)
        return dataclasses.replace(self, x0=x0, eps=eps)

    def shift(self, delta: Float[Array, "*event"]) -> "Prediction":
        """New clean estimate, same noise: the point moves with it (CFG++, TFG, MPGD)."""
        return dataclasses.replace(self, x0=self.x0 + delta)

    def contrast(self, weak: "Prediction", scale: Any, level: Level) -> "Prediction":
        """weak + scale (self - weak), same point x: what every contrast of two predictions is made of."""
        return self.towards(weak.x0 + scale * (self.x0 - weak.x0), level)

    def compose(self, others: "Prediction", weights: Any, level: Level) -> "Prediction":
        """self + sum_k weights_k (others_k - self), same point x; the predictions `others` are stacked, (K, ...)."""
        towards = jnp.tensordot(weights.astype(self.x0.dtype), others.x0 - self.x0, 1, precision="highest")
        return self.towards(self.x0 + towards, level)


class Composable(Space):
    """A space whose predictions compose: u + sum of weights (prediction - u)."""

    kind: ClassVar[str] = "images, vectors and tokens"


@dataclasses.dataclass(frozen=True)
class GaussianDiffusion(Composable):
    """Images, vectors, embeddings: x_t = alpha x_0 + sigma eps on any schedule, flows included.

    Named so, and not `Gaussian`, because the exact model of that name is an oracle.
    """

    kind: ClassVar[str] = "images or vectors"
    solver: ClassVar[str] = "DDIM()"

    def start(self, key: Key[Array, ""], levels: Level, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Noise N(0, sigma^2) of the first level."""
        sigma = jnp.asarray(levels.sigma[0])
        return sigma * normal(key, jnp.zeros(shape, jnp.promote_types(sigma.dtype, jnp.float32)))

    def start_std(self, levels: Level) -> Any:
        return levels.sigma[0]

    def flat(self, x: Float[Array, "*event"], level: Level) -> Prediction:
        """Score 0: x0 = x / alpha, eps = 0."""
        return Prediction(x / level.alpha, jnp.zeros_like(x))
