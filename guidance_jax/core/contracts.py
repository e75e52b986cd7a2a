"""The contracts between parts: base classes with defaults. Parts check types, and use nothing outside these classes."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core.arithmetic import float_type, scalar
from guidance_jax.core.distributions import Distribution
from guidance_jax.core.levels import Level, Refused
from guidance_jax.core.pytrees import converted, function, pytree
from guidance_jax.core.spaces import GaussianDiffusion, Space

GAUSSIAN = GaussianDiffusion()


class Denoiser:
    """Predict the clean sample x0 from the noisy sample x. `state` holds what one step leaves for the next, often `()`.

    A subclass defines `__call__`. It defines `init` if it has state, `space` if its samples are not images or vectors,
    and `check` if it can refuse inputs. `domain` (shape, schedule, classes) says what it was trained for; None if
    unknown.
    """

    domain: Any = None

    @property
    def space(self) -> Any:
        """The space of its samples."""
        return GAUSSIAN

    @property
    def num_classes(self) -> int | None:
        """The number of labels without the null label; None if unknown."""
        return None if self.domain is None else self.domain.num_classes

    def init(self, x: Any) -> Any:
        """Return the state before the first step, for a sample `x`."""
        return ()

    def __call__(self, x: Any, level: Level, cond: Any, state: Any, key: Any) -> tuple[Any, Any]:
        """Return (prediction, new state) at the noisy sample x."""
        raise NotImplementedError

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """Draw the sample that sampling starts from."""
        return self.space.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for levels, shapes or conditions that the denoiser cannot handle.

        `sample` calls it once, before the loop, on the kernel, and each part calls it on the parts inside. Structure is
        always checked, numbers only if they are not traced. `cond` has the batch axes of the caller, if any.
        """
        self.space.check(levels, shape)
        if self.domain is not None:
            self.domain.check(levels, shape, cond)


class HiddenStates(Denoiser):
    """A denoiser whose hidden states can be guided. Its call equals `read(logits_of(hidden(x)))`."""

    def hidden(self, x: Any, level: Level, cond: Any) -> Any:
        """Return the hidden states of one sample, usually (L, width)."""
        raise NotImplementedError

    def logits_of(self, h: Any, level: Level, cond: Any) -> Any:
        """Return the logits (L, V) that follow from the hidden states `h`."""
        raise NotImplementedError

    def read(self, logits: Any, x: Any, level: Level) -> Any:
        """Return the prediction that the `logits` of x stand for."""
        raise NotImplementedError


class Guide:
    """Steer sampling by log p(cond | x): a classifier, a likelihood, a reward or a twist.

    `log_prob` is in nats, `score` is its gradient in x. The method that calls the guide decides, and documents, whether
    x is the noisy sample or the clean estimate.
    """

    domain: Any = None
    takes: ClassVar[type[Space]] = Space
    clean: ClassVar[bool] = False  # True if it judges only clean samples

    @property
    def space(self) -> Any:
        """None, since a guide has no space of its own: it judges samples of every space in `takes`."""
        return None

    def log_prob(self, x: Any, level: Level, cond: Any) -> Any:
        """Return log p(cond | x), a scalar in nats, up to a constant."""
        raise NotImplementedError

    def score(self, x: Any, level: Level, cond: Any) -> Any:
        """Return grad_x log p(cond | x), in the shape of x."""
        return jax.grad(self.value)(x, level, cond)

    def value(self, x: Any, level: Level, cond: Any) -> Any:
        """Return `log_prob`, checked to be one number. Methods call this."""
        return scalar(self.log_prob(x, level, cond), type(self).__name__)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for samples or conditions that it cannot judge."""
        if self.domain is not None:
            self.domain.check(levels, shape, cond)


def check_arguments(owner: Any, f: Any, form: str) -> None:
    """Raise `Refused` unless `f`, a function of `owner`, takes the arguments in `form`, such as "x, level, cond"."""
    try:
        signature = inspect.signature(f)
    except (TypeError, ValueError):  # a callable without a signature
        return
    try:
        signature.bind(*form.split(", "))
    except TypeError:
        raise Refused(
            f"{type(owner).__name__} calls its function as f({form}), got a function of {signature}"
        ) from None


@pytree
class GuideFunction(Guide):
    """A guide made from a plain function.

    Attributes:
      f: the function f(x, level, cond) -> log p, a scalar in nats.
    """

    f: Any = converted(function)

    def __post_init__(self):
        check_arguments(self, self.f, "x, level, cond")

    def log_prob(self, x, level, cond):
        return self.f(x, level, cond)


def as_guide(f: Any) -> Any:
    """Turn a function f(x, level, cond) -> log p into a `Guide`.

    Everything else is returned unchanged. `need` later refuses what is no guide.
    """
    return GuideFunction(f) if callable(f) and not isinstance(f, Guide | Denoiser | Kernel) else f


class Solver:
    """Move a sample from level `t` to the less noisy level `s`. `evaluate(x, level)` calls the denoiser again.

    `takes` is the class of spaces that the solver is for. A solver that calls the network between two levels has a
    `schedule`. It must be the schedule of the levels, or the network would get the wrong t.
    """

    takes: ClassVar[type[Space]] = GaussianDiffusion
    schedule: Any = None

    @property
    def deterministic(self) -> bool:
        """Whether the solver is known to draw no noise."""
        return False

    def init(self, x: Any) -> Any:
        """Return the history before the first step, for a sample `x`."""
        return ()

    def step(
        self, pred: Any, t: Level, s: Level, evaluate: Callable[[Any, Level], Any], state: Any, key: Any
    ) -> tuple[Any, Any]:
        """Return (x_s, new state) from the prediction at t."""
        raise NotImplementedError

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for levels that the solver cannot handle."""
        if self.schedule is not None:
            self.schedule.check(levels, f"{type(self).__name__} calls the network between the levels of")


class Stochastic(Solver):
    """A solver whose step is a draw from `transition(pred, t, s)`. Particle methods weigh by its density."""

    def transition(self, pred: Any, t: Level, s: Level) -> Distribution:
        """Return p(x_s | x_t), the distribution that the prediction at t implies."""
        raise NotImplementedError

    def step(self, pred, t, s, evaluate, state, key):
        return self.transition(pred, t, s).draw(key), state


class Kernel:
    """One reverse transition, from a level to the next. The carry holds the sample, in its field `x`, and all states.

    `takes` is the class of spaces that the kernel is for.
    """

    takes: ClassVar[type[Space]] = Space

    @property
    def space(self) -> Any:
        """The space of the samples."""
        return GAUSSIAN

    @property
    def population(self) -> bool:
        """Whether the carry is a population of weighted particles, which `populations` runs and `generate` refuses."""
        return False

    @property
    def overwritable(self) -> bool:
        """Whether the weights stay correct if a wrapper overwrites entries of x between steps, as infilling does."""
        return True

    def init(self, x: Any) -> Any:
        """Return the carry at the first level."""
        raise NotImplementedError

    def __call__(self, carry: Any, t: Level, s: Level, cond: Any, key: Any) -> Any:
        """Return the carry at level s."""
        raise NotImplementedError

    def finish(self, carry: Any, level: Level, cond: Any, key: Any) -> Any:
        """Return the carry after the last step. Populations get their last weights here."""
        return carry

    def moving(self, levels: Level) -> Level:
        """Return `levels` without the steps that this kernel skips."""
        return levels

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """Draw the sample that sampling starts from."""
        return self.space.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for levels, shapes or conditions that the kernel cannot handle."""


class Move:
    """Define how one particle moves from level to level and what its log-weight gains. `SMC` does the rest.

    In the terms of Feynman-Kac models: `potential` is evaluated at a particle's level before it moves. `propose` draws
    the transition and returns the log-ratio of target and proposal. `final_potential` is evaluated at the clean level.
    `takes` is the class of spaces that the move is for.
    """

    takes: ClassVar[type[Space]] = Space

    @property
    def overwritable(self) -> bool:
        """Whether the weights stay correct if a wrapper overwrites entries of x between steps."""
        return True

    @property
    def space(self) -> Any:
        """The space of one particle."""
        return GAUSSIAN

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """Draw the population of `shape` (n, *event) that sampling starts from."""
        return self.space.start(key, levels, shape)

    def init(self, x: Any) -> Any:
        """Return the state that a particle carries besides x."""
        raise NotImplementedError

    def potential(self, x: Any, state: Any, t: Level, cond: Any, key: Any) -> tuple[Any, Any]:
        """Return (what `propose` needs, gain in log-weight) at level t."""
        raise NotImplementedError

    def propose(self, found: Any, t: Level, s: Level, cond: Any, key: Any) -> tuple[Any, Any, Any]:
        """Return (x_s, state, gain in log-weight). `found` is the first value that `potential` returned."""
        raise NotImplementedError

    def final_potential(self, x: Any, state: Any, level: Level, cond: Any, key: Any) -> Any:
        """Return the gain in log-weight at the clean level."""
        return jnp.zeros((), float_type(x))

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for what the move cannot handle. `shape` is the shape of one particle."""


class Wrapper:
    """A part made from another part of the same kind, `inner`: a denoiser, a guide or a kernel.

    State, space, domain, start and checks are those of `inner`, unless the wrapper overrides them. `wraps` is the type
    that `inner` must have, `takes` the class of spaces that the wrapper is for.
    """

    inner: Any
    wraps: ClassVar[type] = Denoiser
    takes: ClassVar[type[Space]] = Space

    @property
    def space(self) -> Any:
        return self.inner.space

    @property
    def domain(self) -> Any:
        return self.inner.domain

    @property
    def num_classes(self) -> int | None:
        return self.inner.num_classes

    def init(self, x: Any) -> Any:
        """Return the state of `inner` before the first step."""
        return self.inner.init(x)

    def start(self, key: Any, levels: Level, shape: tuple[int, ...]) -> Any:
        """Draw the sample from which sampling of `inner` starts."""
        return self.inner.start(key, levels, shape)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        """Raise `Refused` for what the wrapper or `inner` cannot handle."""
        self.check_inner()
        self.inner.check(levels, shape, cond)

    def check_inner(self) -> None:
        """Raise `Refused` unless `inner` has the type `wraps` and a space that the wrapper takes."""
        need(self, self.inner, self.wraps, "the inner part")
        check_space(self, self.inner.space)


class KernelWrapper(Wrapper, Kernel):
    """A kernel made from the kernel `inner`. It is a kernel of populations if `inner` is one."""

    wraps: ClassVar[type] = Kernel

    @property
    def population(self) -> bool:
        return isinstance(self.inner, Kernel) and self.inner.population  # `check` refuses an `inner` that is no kernel

    @property
    def overwritable(self) -> bool:
        return self.inner.overwritable

    def __call__(self, carry: Any, t: Level, s: Level, cond: Any, key: Any) -> Any:
        return self.inner(carry, t, s, cond, key)

    def finish(self, carry: Any, level: Level, cond: Any, key: Any) -> Any:
        return self.inner.finish(carry, level, cond, key)

    def moving(self, levels: Level) -> Level:
        need(self, self.inner, self.wraps, "the inner part")
        return self.inner.moving(levels)


def innermost(part: Any) -> Any:
    """Return the part inside all wrappers of `part`."""
    while isinstance(part, Wrapper):
        part = part.inner
    return part


HINTS: dict[Any, tuple[str, str]] = {
    Denoiser: ("a denoiser", "wrap a function f(x, level, cond) -> x0 as Function(f)"),
    Guide: ("a guide", "pass a Guide or a function f(x, level, cond) -> log p"),
    Solver: ("a solver", "write Reverse(model, DDIM())"),
    Stochastic: ("a solver with a transition density", "use DDPM(), DDIM(1.0) or Ancestral()"),
    Kernel: ("a kernel", "write Reverse(model, DDIM())"),
    Move: ("a move", "write SMC(BestOf(kernel, reward))"),
    HiddenStates: ("a denoiser with hidden states", "use HiddenNetwork(params, encode, decode, process)"),
}


def need(owner: Any, part: Any, kind: type[Any], place: str = "its part") -> None:
    """Raise `Refused` unless `part` is a `kind` and all wrappers in it wrap what they need.

    `place` and `owner` name the part in the error, as in "the kernel of generate".
    """
    if not isinstance(part, kind):
        what, hint = HINTS.get(kind, (kind.__name__, f"pass a {kind.__name__}"))
        got = part.__name__ if isinstance(part, type) else type(part).__name__
        got += f" of {type(innermost(part)).__name__}" if isinstance(part, Wrapper) else ""
        name = owner if isinstance(owner, str) else type(owner).__name__
        raise Refused(f"{place} of {name} must be {what}, got {got}; {hint}")
    if isinstance(part, Wrapper):
        need(part, part.inner, part.wraps, "the inner part")


def check_space(owner: Any, space: Any) -> None:
    """Raise `Refused` unless `owner` takes samples of `space`. A `space` of None is accepted."""
    if space is not None and not isinstance(space, owner.takes):
        name = type(owner).__name__
        instead = space.solver if isinstance(owner, Solver) else f"a method for {space.kind}"
        raise Refused(f"{name} is for {owner.takes.kind}, but the model is for {space.kind}; use {instead}")
