"""What the guidance methods share: delegation to the inner denoiser, strengths, and asking two conditions at once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Level, check, concrete


class Guidance:
    """A denoiser made from `inner`; by default it adds no state and no conditions of its own."""

    inner: Any

    @property
    def domain(self) -> Any:
        return getattr(self.inner, "domain", None)

    def init(self, x: Any) -> Any:
        return self.inner.init(x)

    def check(self, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
        check(self.inner, levels, shape, cond)


def strength(scale: Any, level: Level, cond: Any, off: float) -> Any:
    """The value of `scale` here. `off` is the method's identity: 1 for contrasts, 0 for gradients.

    A scale is a number, a function of the level, or an object with `strength(level, cond, off)` (`Window`, `PerClass`).
    """
    if hasattr(scale, "strength"):
        return scale.strength(level, cond, off)
    return scale(level) if callable(scale) else scale


def active(scale: Any, level: Level) -> Any:
    """A boolean that is False where `scale` is off whatever the condition is, or None if that cannot be known.

    It depends on the level alone, so that under `vmap` over samples a `lax.cond` on it still skips the work.
    """
    return scale.active(level) if hasattr(scale, "active") else None


def norm(a: Any) -> Any:
    """The Euclidean norm over all entries of one sample, with derivative 0 at 0."""
    square = jnp.sum(a * a)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def quotient(a: Any, b: Any) -> Any:
    """a / b, and 0 where b is 0."""
    return jnp.where(b == 0, 0, a / jnp.where(b == 0, 1, b))


def only_guided(inner: Any, guided: Any, own: Any) -> Any:
    """`guided` in the channels that the model wants guided (`Domain.guided_channels`), `own` in the others."""
    channels = getattr(getattr(inner, "domain", None), "guided_channels", None)
    if channels is None:
        return guided
    chosen = jnp.arange(own.x0.shape[-1]) < channels
    x0, eps = (jnp.where(chosen, a, b) for a, b in ((guided.x0, own.x0), (guided.eps, own.eps)))
    return dataclasses.replace(guided, x0=x0, eps=eps)


def when(on: Any, work: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """`work()` if `on`, else `otherwise()`, really skipping the other; `on` None means always."""
    return work() if on is None else jax.lax.cond(on, work, otherwise)


def check_both(rule: Any, levels: Any, shape: tuple[int, ...], cond: Any) -> None:
    """Raise unless there is a condition and one that means "unconditional", and what is inside takes both."""
    name = type(rule).__name__
    if cond is None:
        raise ValueError(f"{name} needs a condition to guide towards, got cond=None; pass labels")
    if rule.null is None:
        raise ValueError(
            f"{name} needs the null condition, got None: the model was not trained with conditioning dropout; "
            "use Classifier(...) or train with label_dropout=0.1"
        )
    check(rule.inner, levels, shape, cond)
    try:
        check(rule.inner, levels, shape, rule.null)
    except ValueError as error:
        raise ValueError(
            f"{name} asks what is inside with its null condition too, which is refused: {error}; "
            "a classifier goes outside: Classifier(CFG(model, ...), classifier, ...)"
        ) from None


def pair(inner: Any, x: Any, level: Level, cond: Any, null: Any, state: Any, key: Any, on: Any = None) -> tuple:
    """(conditional, unconditional, state) predictions of `inner`, whose state is stacked: [conditional, null].

    One network call, by `vmap` over the two conditions. Where `on` may be False the two are asked in turn, in a
    loop that inlines the network once, and the unconditional one is skipped: it is then a copy of the conditional.
    """
    null = jax.tree.map(lambda c, n: jnp.broadcast_to(jnp.asarray(n, jnp.result_type(c)), jnp.shape(c)), cond, null)
    both = jax.tree.map(lambda c, n: jnp.stack([c, n]), cond, null)
    if on is None:
        preds, state = jax.vmap(inner, in_axes=(None, None, 0, 0, None))(x, level, both, state, key)
        return jax.tree.map(lambda p: p[0], preds), jax.tree.map(lambda p: p[1], preds), state

    def ask(previous, inputs):
        cond, state, wanted = inputs
        new = jax.lax.cond(wanted, lambda: inner(x, level, cond, state, key), lambda: (previous, state))
        return new[0], new

    blank = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype),
        jax.eval_shape(lambda: inner(x, level, cond, jax.tree.map(lambda s: s[0], state), key)[0]),
    )
    _, (preds, state) = jax.lax.scan(ask, blank, (both, state, jnp.stack([jnp.ones_like(on), on])))
    return jax.tree.map(lambda p: p[0], preds), jax.tree.map(lambda p: p[1], preds), state


def not_negative(owner: Any) -> None:
    """Raise if the scale of `owner` is known and negative."""
    scale = owner.scale
    if not callable(scale) and not hasattr(scale, "strength") and concrete(scale) and np.any(np.asarray(scale) < 0):
        name = type(owner).__name__
        raise ValueError(
            f"the scale (gamma) of {name} must not be negative, got {scale}; to avoid a class guide to the others"
        )


def divergence(p: Any, q: Any, where: Any = True) -> Any:
    """KL(p || q) of log-probabilities (..., V), in nats, summed over the positions `where`; 0 log 0 is 0."""
    there = p > -jnp.inf
    each = jnp.where(there, jnp.exp(p) * (jnp.where(there, p, 0) - jnp.where(there, q, 0)), 0)
    return jnp.sum(jnp.where(where, jnp.sum(each, -1), 0))
