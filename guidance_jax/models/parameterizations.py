"""What a network's output means: rules from the output to a `Prediction`, and from (x0, eps) to the training target.

    name      output                 x0                        eps
    eps       eps                    (x - sigma eps) / alpha   eps
    x0        x0                     x0                        (x - alpha x0) / sigma
    v         alpha eps - sigma x0   (alpha x - sigma v) / n   (sigma x + alpha v) / n    n = alpha^2 + sigma^2
    velocity  eps - x0               (x - sigma v) / n         (x + alpha v) / n          n = alpha + sigma
    score     -eps / sigma           (x + sigma^2 s) / alpha   -sigma s

`velocity_to_data` is minus `velocity`, for a network that gets 1 - t.

`v` comes from Salimans & Ho 2022 (arXiv 2202.00512), `velocity` from rectified flow (2209.03003).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from guidance_jax.core import Level, Prediction, Refused
from guidance_jax.schedules import RectifiedFlow


class Parameterization:
    """Define a network's inputs, how `predict` reads its output, and the `target` of its training.

    `schedule` is the only schedule on which the output has this meaning; None for any. `needs_signal` is True if x0
    cannot be computed at a level without signal, alpha = 0, as from predicted noise.
    """

    schedule: ClassVar[Any] = None
    needs_signal: ClassVar[Any] = False

    def inputs(self, x: Any, level: Level) -> tuple[Any, Any]:
        """Return the inputs (x, t) of the network for x_t at `level`."""
        return x, level.t

    def predict(self, output: Any, x: Any, level: Level) -> Prediction:
        """Return (x0, eps) from the network's output at x."""
        raise NotImplementedError

    def target(self, x0: Any, eps: Any, level: Level) -> Any:
        """Return the training target. Training minimises the squared distance of the output to it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Eps(Parameterization):
    """Noise prediction (epsilon-prediction), as in DDPM: the output is eps.

    x0 = (x - sigma eps) / alpha
    """

    needs_signal: ClassVar[bool] = True

    def predict(self, output, x, level):
        return Prediction((x - level.sigma * output) / level.alpha, output)

    def target(self, x0, eps, level):
        return eps


@dataclass(frozen=True)
class X0(Parameterization):
    """Sample prediction (x0-prediction): the output is the clean sample.

    eps = (x - alpha x0) / sigma
    """

    def predict(self, output, x, level):
        return Prediction.split(x, output, level)

    def target(self, x0, eps, level):
        return x0


@dataclass(frozen=True)
class V(Parameterization):
    """v-prediction (Salimans & Ho 2022, arXiv 2202.00512): the output is v = alpha eps - sigma x0.

    x0 = (alpha x - sigma v) / n,   eps = (sigma x + alpha v) / n,   n = alpha^2 + sigma^2
    """

    def predict(self, output, x, level):
        norm = level.alpha**2 + level.sigma**2
        x0 = (level.alpha * x - level.sigma * output) / norm
        return Prediction(x0, (level.sigma * x + level.alpha * output) / norm)

    def target(self, x0, eps, level):
        return level.alpha * eps - level.sigma * x0


@dataclass(frozen=True)
class Velocity(Parameterization):
    """Velocity prediction of rectified flow (arXiv 2209.03003), from data to noise: the output is v = eps - x0.

    x0 = (x - sigma v) / n,   eps = (x + alpha v) / n,   n = alpha + sigma
    """

    def predict(self, output, x, level):
        norm = level.alpha + level.sigma
        return Prediction((x - level.sigma * output) / norm, (x + level.alpha * output) / norm)

    def target(self, x0, eps, level):
        return eps - x0


@dataclass(frozen=True)
class VelocityToData(Velocity):
    """Velocity prediction on the reversed clock 1 - t, 0 at the noise and 1 at the data: the output is x0 - eps.

    SiT, LightningDiT and flow matching of Lipman et al. 2023 (arXiv 2210.02747) use it, on `RectifiedFlow`. Levels of
    another schedule are refused.
    """

    schedule: ClassVar[Any] = RectifiedFlow()

    def inputs(self, x, level):
        return x, 1 - level.t

    def predict(self, output, x, level):
        return super().predict(-output, x, level)

    def target(self, x0, eps, level):
        return x0 - eps


@dataclass(frozen=True)
class Score(Parameterization):
    """Score prediction: the output is s = grad log p(x_t) = -eps / sigma.

    x0 = (x + sigma^2 s) / alpha
    """

    needs_signal: ClassVar[bool] = True

    def predict(self, output, x, level):
        return Prediction((x + level.sigma**2 * output) / level.alpha, -level.sigma * output)

    def target(self, x0, eps, level):
        return -eps / level.sigma


@dataclass(frozen=True)
class EDM(Parameterization):
    """EDM preconditioning (Karras et al. 2022, Table 1), with r = sigma / alpha and y = x / alpha:

        D = c_skip y + c_out F(c_in y, log(r) / 4),
        c_skip = sd^2 / (r^2 + sd^2),  c_out = r sd / sqrt(r^2 + sd^2),  c_in = 1 / sqrt(r^2 + sd^2).

    The unit-weight loss on F is EDM's weighted loss on D.

    Attributes:
      sigma_data: the standard deviation of the data.
    """

    sigma_data: float = 0.5

    needs_signal: ClassVar[bool] = True  # the network gets log(sigma / alpha) / 4

    def inputs(self, x, level):
        return x / level.alpha / jnp.sqrt(level.ratio**2 + self.sigma_data**2), jnp.log(level.ratio) / 4

    def predict(self, output, x, level):
        square = level.ratio**2 + self.sigma_data**2
        skip, scale = self.sigma_data**2 / square, level.ratio * self.sigma_data / jnp.sqrt(square)
        return Prediction.split(x, skip * x / level.alpha + scale * output, level)

    def target(self, x0, eps, level):
        # (x0 - c_skip y) / c_out with y = x0 + r eps, simplified so that nothing cancels
        r, sd = level.ratio, self.sigma_data
        return (r * x0 - sd**2 * eps) / (sd * jnp.sqrt(r**2 + sd**2))


@dataclass(frozen=True)
class LearnedRange(Parameterization):
    """OpenAI's learned-range variance: the output has twice the channels, and the second half is v in [-1, 1].

        log variance = frac log beta + (1 - frac) log beta-tilde,  frac = (v + 1) / 2

    This is eq. 15 of Nichol & Dhariwal 2021. The solver computes beta and beta-tilde: `DDPM(variance=learned_range)`.

    Attributes:
      mean: the parameterization of the first half of the channels.

    Raises:
      Refused: a network without the second half, or training, since that half has no regression target.
    """

    mean: Parameterization = Eps()

    @property
    def needs_signal(self) -> bool:
        return self.mean.needs_signal

    def inputs(self, x, level):
        return self.mean.inputs(x, level)

    def predict(self, output, x, level):
        if output.shape[-1] != 2 * x.shape[-1]:
            raise Refused(
                f"a learned-range network returns twice the channels of x: expected {2 * x.shape[-1]}, got "
                f"{output.shape[-1]}; use parameterization={type(self.mean).__name__}() for a fixed variance"
            )
        mean, v = jnp.split(output, 2, axis=-1)
        pred = self.mean.predict(mean, x, level)
        return Prediction(pred.x0, pred.eps, (v + 1) / 2)

    def target(self, x0, eps, level):
        raise Refused(
            "the variance half of a learned-range network has no regression target; train with "
            f"parameterization={type(self.mean).__name__}() and a fixed variance"
        )


eps, x0, v, velocity, score = Eps(), X0(), V(), Velocity(), Score()
velocity_to_data = VelocityToData()
