"""Denoisers and noisy classifiers made from a network, which is any pure function."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float
from guidance_jax.core import (
    Denoiser,
    Guide,
    Level,
    Refused,
    check_arguments,
    check_signal,
    converted,
    function,
    log_softmax,
    pytree,
    read_entry,
    static,
)
from guidance_jax.models import parameterizations
from guidance_jax.models.batching import call_network, require_form
from guidance_jax.models.domain import Domain, network_condition, unless_unknown
from guidance_jax.models.parameterizations import Parameterization


class Parametrized:
    """A part with the parameters of a network. `ledger` counts the calls of the fields `functions`; none: of itself."""

    params: Any
    domain: Any
    functions: ClassVar[tuple[str, ...]] = ("apply",)
    batched: bool = False

    def __repr__(self):
        size = sum(np.size(a) for a in jax.tree.leaves(self.params))
        return f"{type(self).__name__}({size:,} parameters, {self.domain})"


@pytree
class Network(Parametrized, Denoiser):
    """A denoiser made from a pure function `apply(params, x, t, cond) -> output`, of one sample or of a batch.

    If the domain has no classes and no text, the network does not get `cond`. So an unconditional model can be combined
    with a classifier that needs the label. One network call.

    Attributes:
      params: a pytree of arrays. They are leaves, so EMA weights or another checkpoint of the same shapes run the same
        program.
      apply: the function. x has shape (*event), t is the schedule's clock (`level.t`) unless the parameterization
        changes it (EDM), cond is one sample's condition. `output` has the shape of x, or twice its channels.
      parameterization: what the output means, one of `guidance_jax.parameterizations`. It must be given.
      domain: what it was trained for; with None, nothing is checked.
      perturbation: the value that `perturb` sets. `apply` gets it as an argument of that name; with None, it gets none.
      batched: True if `apply` takes a batch axis in front of x, t and cond, as most networks do. It gets batches of
        one, which `vmap` joins again. False if `apply` takes one sample. It must be given: a network does not tell.
      scale: the guidance scale of a network that has learned guidance, a number. `apply` gets it as an argument of that
        name; with None, it gets none. `guidance.Learned` sets it, at each level anew.
      encodes: whether `apply(params, None, None, cond)` returns one sample's condition in an encoded form, which
        `apply` takes as a condition, too. It saves costly work that is the same at every step, such as encoding GLIDE's
        caption. See `encode`.

    Raises:
      Refused: samples, labels or levels that `domain` does not allow; an output of another shape than x; a `batched`
        that is not given or evidently wrong; no parameterization.
    """

    params: Any
    apply: Callable = static()
    parameterization: Any = static(default=None)
    domain: Domain | None = static(default=None)
    perturbation: Any = None
    batched: bool = static(default=None)
    encodes: bool = static(default=False)
    scale: Any = None

    def __post_init__(self):
        if not isinstance(self.parameterization, Parameterization):
            raise Refused(
                f"the parameterization must state what the output means, got {self.parameterization!r}; write "
                "gj.parameterizations.eps, x0, v, velocity, score or EDM(...)"
            )
        require_form(self, self.batched)

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if self.parameterization.schedule is not None:
            self.parameterization.schedule.check(levels, "the velocity field is defined on")
        if self.parameterization.needs_signal:
            check_signal(levels, f"a network whose output is {self.parameterization}")

    def explain(self) -> str:
        """Describe the network, with the t that it gets at three levels, to compare with how it was trained.

        >>> from guidance_jax import CosineBetas, Domain, parameterizations
        >>> domain = Domain((2,), CosineBetas(1000), num_classes=10, null_label=10)
        >>> print(Network((), abs, parameterizations.v, domain, batched=False).explain())
        the output is V(), of samples (2,), on CosineBetas(steps=1000)
        10 classes, 0 to 9, null label 10
        time input 999 where sigma / alpha = 2.0e+04
        time input 495.1 where sigma / alpha = 1.0e+00
        time input 0 where sigma / alpha = 6.4e-03
        """
        domain, schedule = self.domain, None if self.domain is None else self.domain.schedule
        schedule = schedule or self.parameterization.schedule
        shape = "any shape" if domain is None else str(domain.shape)
        lines = [f"the output is {self.parameterization}, of samples {shape}, on {schedule or 'any schedule'}"]
        if domain is not None and domain.num_classes is not None:
            null = "no null label" if domain.null_label is None else f"null label {domain.null_label}"
            lines.append(f"{domain.num_classes} classes, 0 to {domain.num_classes - 1}, {null}")
        else:
            lines.append("no classes are known")
        if schedule is not None:
            ends = schedule.levels(2)
            middle = schedule(schedule.at_log_snr(jnp.zeros(())))
            last = schedule(schedule.at_log_snr(jnp.asarray(2 * np.log(200.0))))
            for level in (ends.at(0), middle, last):
                clock = float(self.parameterization.inputs(jnp.zeros(()), level)[1])
                lines.append(f"time input {round(clock, 3) + 0.0:.4g} where sigma / alpha = {float(level.ratio):.1e}")
        return "\n".join(lines)

    def encode(self, cond: Any) -> Any:
        """Encode the conditions (n, ...) once, so that sampling does not encode them again at every step.

        Raises:
          Refused: a network that has nothing to encode.
        """
        if not self.encodes:
            raise Refused("the network takes its conditions as they are; there is nothing to encode")
        return _encode(self, jax.tree.map(jnp.asarray, cond))

    def __call__(self, x, level, cond, state, key):
        if self.domain is not None:
            self.domain.check_shape(x.shape)
        options = {} if self.perturbation is None else {"perturbation": self.perturbation}
        if self.scale is not None:
            options["scale"] = self.scale
        cond = network_condition(self.domain, cond)
        inputs = *self.parameterization.inputs(x, level), cond
        output = call_network(self.apply, self.batched, self.params, *inputs, **options)
        if jnp.shape(output)[:-1] != x.shape[:-1] or jnp.ndim(output) != x.ndim:
            raise Refused(
                f"for a sample of shape {x.shape} the network returned an output of shape {jnp.shape(output)}; it "
                "must have the shape of the input, or more channels"
            )
        output = unless_unknown(self.domain, cond, output.astype(x.dtype))
        return self.parameterization.predict(output, x, level), state


@jax.jit
def _encode(network: Network, cond: Any) -> Any:
    return jax.lax.map(lambda one: network.apply(network.params, None, None, one), cond)


@pytree
class Function(Denoiser):
    """A denoiser made from any function `f(x, level, cond) -> output`. By default the output is the clean sample x0.

    Attributes:
      f: the function, of one sample x (*event) and a `Level`.
      parameterization: what the output means.
    """

    f: Any = converted(function)
    parameterization: Parameterization = static(default=parameterizations.x0)

    def __post_init__(self):
        check_arguments(self, self.f, "x, level, cond")

    def check(self, levels, shape, cond):
        super().check(levels, shape, cond)
        if self.parameterization.needs_signal:
            check_signal(levels, f"a function whose output is {self.parameterization}")

    def __call__(self, x, level, cond, state, key):
        return self.parameterization.predict(self.f(x, level, cond), x, level), state


@pytree
class NoisyClassifier(Parametrized, Guide):
    """A classifier log p(y | x_t) made from a pure function `apply(params, x, t) -> logits (num_classes,)`.

    Attributes:
      params: a pytree of arrays.
      apply: the function, of one sample or of a batch. For tokens it takes integers (L,) and, for `TAG`, one-hot
        vectors (L, states).
      domain: what it was trained for; with None, nothing is checked.
      batched: as in `Network`.

    Raises:
      Refused: samples, labels or levels that `domain` does not allow; logits that are no vector.
    """

    params: Any
    apply: Callable = static()
    domain: Domain | None = static(default=None)
    batched: bool = static(default=None)

    def __post_init__(self):
        require_form(self, self.batched)

    def logits(self, x: Any, level: Level) -> Float[Array, " classes"]:
        """Return the unnormalised log p(. | x_t), one entry per class."""
        logits = call_network(self.apply, self.batched, self.params, x, level.t)
        if jnp.ndim(logits) != 1:
            raise Refused(f"a classifier must return a vector of logits for one sample, got shape {jnp.shape(logits)}")
        return logits

    def log_prob(self, x: Any, level: Level, cond: Any) -> Float[Array, ""]:
        """Return log p(cond | x_t) in nats, in float32 or better whatever the network's dtype."""
        return read_entry(log_softmax(self.logits(x, level)), cond)
