"""Spaces say what a sample is: Gaussian diffusion here, tokens in `discrete.process`, text in `text.sequence`."""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from guidance_jax._typing import Array, Float, Key
from guidance_jax.core.arithmetic import normal
from guidance_jax.core.levels import Level
from guidance_jax.core.pytrees import pytree


class Space:
    """Define what a sample is, what a level means, where sampling starts, and which prediction denoisers return.

    A denoiser HAS a space, a value that can be compared, such as `Absorbing(21)`. A method or a solver TAKES a class
    of spaces, such as `takes = Absorbing`, since it works for every vocabulary.
    """

    kind: ClassVar[str] = "samples"  # the name of its samples in errors
    solver: ClassVar[str] = "DDIM()"  # a solver that takes it, for errors

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """Draw the sample that sampling starts from: what the forward process leaves of data at the noisiest level."""
        raise NotImplementedError

    def start_std(self, levels: Level) -> Any:
        """Return the standard deviation of the noise that sampling starts from; None if it starts without noise."""
        return None

    def flat(self, x: Any, level: Level) -> Any:
        """Return the prediction of a model without preference: a constant density, or all tokens equally likely."""
        raise NotImplementedError

    def free(self, x: Any) -> Any:
        """Return the positions that a model decides, booleans (L,): all, unless some are decided already."""
        return jnp.ones(len(x), bool)

    def check(self, levels: Level, shape: tuple[int, ...]) -> None:
        """Raise `Refused` unless samples of `shape` can be made on `levels`."""

    def check_finished(self, levels: Level) -> None:
        """Raise `Refused` if the last of `levels` is known and samples are not finished there."""

    def mark_unfinished(self, x: Any) -> Any:
        """Return the sample `x` at the end of its levels. All its tokens become `FAILED` if a mask is left."""
        return x

    def mark_foreign(self, x: Any) -> Any:
        """Return the start of sampling `x`, with tokens outside the vocabulary replaced by `FAILED`."""
        return x


@pytree
class Prediction:
    """A noisy sample split into signal and noise, x_t = alpha x0 + sigma eps. Gaussian solvers read nothing else.

    Only models with a learned variance set `variance_fraction`: 0 is the smallest reverse variance (beta-tilde), 1 the
    largest (beta), and between them the logarithm is interpolated. The variance depends on the next level, which a
    denoiser does not see. So the solver turns the fraction into a variance.

    Attributes:
      x0: the clean estimate E[x_0 | x_t], (*event).
      eps: the noise that goes with it, (*event).
      variance_fraction: the place of the variance between the two bounds, (*event) in [0, 1]; None without one.
    """

    x0: Any
    eps: Any
    variance_fraction: Any = None

    @staticmethod
    def split(x: Float[Array, "*event"], x0: Float[Array, "*event"], level: Level) -> "Prediction":
        """Return the prediction at `x` whose clean estimate is `x0`."""
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    def towards(self, x0: Float[Array, "*event"], level: Level) -> "Prediction":
        """Set the clean estimate to `x0` and change the noise so that x stays (scores, CFG, classifiers, clipping)."""
        eps = self.eps + level.alpha / level.sigma * (self.x0 - x0)
        return dataclasses.replace(self, x0=x0, eps=eps)

    def shift(self, delta: Float[Array, "*event"]) -> "Prediction":
        """Add `delta` to the clean estimate and keep the noise, so that x moves (CFG++, TFG, MPGD)."""
        return dataclasses.replace(self, x0=self.x0 + delta)

    def contrast(self, weak: "Prediction", scale: Any, level: Level) -> "Prediction":
        """Return weak + scale (self - weak) at the same x, the formula of every contrast of two predictions."""
        return self.towards(weak.x0 + scale * (self.x0 - weak.x0), level)

    def compose(self, others: "Prediction", weights: Any, level: Level) -> "Prediction":
        """Return self + sum_k weights_k (others_k - self) at the same x; `others` are stacked predictions, (K, ...)."""
        towards = jnp.tensordot(weights.astype(self.x0.dtype), others.x0 - self.x0, 1, precision="highest")
        return self.towards(self.x0 + towards, level)


class Composable(Space):
    """A space whose predictions can be composed: u + sum of weights (prediction - u)."""

    kind: ClassVar[str] = "images, vectors and tokens"


@dataclasses.dataclass(frozen=True)
class GaussianDiffusion(Composable):
    """The space of images, vectors and embeddings: x_t = alpha x_0 + sigma eps on any schedule, flows included.

    It is not called `Gaussian`, since an exact model has that name.
    """

    kind: ClassVar[str] = "images or vectors"
    solver: ClassVar[str] = "DDIM()"

    def start(self, key: Key[Array, ""], levels: Level, shape: tuple[int, ...]) -> Float[Array, "..."]:
        """Draw noise N(0, sigma^2) of the first level."""
        sigma = jnp.asarray(levels.sigma[0])
        return sigma * normal(key, jnp.zeros(shape, jnp.promote_types(sigma.dtype, jnp.float32)))

    def start_std(self, levels: Level) -> Any:
        return levels.sigma[0]

    def flat(self, x: Float[Array, "*event"], level: Level) -> Prediction:
        """Return the prediction with score 0: x0 = x / alpha, eps = 0."""
        return Prediction(x / level.alpha, jnp.zeros_like(x))
