"""Base classes and shared functions of the guidance methods."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, Level, Refused, Wrapper
from guidance_jax.guidance.scales import check_scales


class Guidance(Wrapper, Denoiser):
    """Base class: a denoiser made from the denoiser `inner`. By default its state is that of `inner`.

    `takes` is the class of spaces that the method is for.
    """

    def check_inner(self):
        super().check_inner()
        check_scales(self, self.inner)


class Contrast(Guidance):
    """Base class: extrapolate from a weak to a strong prediction, weak + scale (strong - weak).

    The target is p_weak^(1 - scale) p_strong^scale. `Corrected` samples this target, with the predictions from `parts`.
    """

    scale: Any
    aims_at_power: ClassVar[bool] = True  # False if the target is not this power of two densities

    def parts(self, x: Any, level: Level, cond: Any, state: Any, key: Any) -> tuple[Any, Any, Any, Any]:
        """Return (guided prediction, strong prediction, weak prediction, new state) at the noisy sample `x`."""
        raise NotImplementedError

    def __call__(self, x, level, cond, state, key):
        guided, _, _, state = self.parts(x, level, cond, state, key)
        return guided, state


def only_guided(model: Denoiser, guided: Any, own: Any) -> Any:
    """Return `guided` in the first `Domain.guided_channels` channels (None: in all) and `own` in the others."""
    channels = None if model.domain is None else model.domain.guided_channels
    if channels is None:
        return guided
    chosen = jnp.arange(own.x0.shape[-1]) < channels
    x0, eps = (jnp.where(chosen, a, b) for a, b in ((guided.x0, own.x0), (guided.eps, own.eps)))
    return dataclasses.replace(guided, x0=x0, eps=eps)


def check_conditions(rule: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
    """Raise `Refused` unless a condition and a null condition are given and `rule.inner` takes both."""
    name = type(rule).__name__
    rule.check_inner()
    if cond is None:
        raise Refused(f"{name} needs a condition to guide towards, got cond=None; pass labels")
    if rule.null is None:
        raise Refused(
            f"{name} needs the null condition, got None: the model was not trained with conditioning dropout; "
            "use Classifier(...) or train with label_dropout=0.1"
        )
    rule.inner.check(levels, shape, cond)
    try:
        rule.inner.check(levels, shape, complete_null(rule.null, cond))
    except Refused as error:
        raise Refused(
            f"{name} also calls its inner model with the null condition, which that model refuses: {error}; put the "
            "classifier outside: Classifier(CFG(model, ...), classifier, ...)"
        ) from None


def complete_null(null: Any, cond: Any) -> Any:
    """Return the null condition of one sample. If both are dicts, entries that `null` lacks are taken from `cond`."""
    return {**cond, **null} if isinstance(null, dict) and isinstance(cond, dict) else null


def stack_states(state: Any, count: int = 2) -> Any:
    """Stack `count` copies of a denoiser's state on a new leading axis, one for each condition."""
    return jax.tree.map(lambda s: jnp.stack([s] * count), state)


def both(model: Any, x: Any, level: Level, cond: Any, null: Any, state: Any, key: Any, on: Any = None) -> tuple:
    """Return (conditional prediction, unconditional prediction, new state) of `model`.

    `state` is stacked as [conditional, null]. If `on` is None, `vmap` over the two conditions makes one network call.
    Otherwise `on` is a boolean and the calls run one after the other, in a loop that compiles the network once. Where
    `on` is False, the unconditional call is skipped and its prediction is a copy of the conditional one.
    """
    null = complete_null(null, cond)
    null = jax.tree.map(lambda c, n: jnp.broadcast_to(jnp.asarray(n, jnp.result_type(c)), jnp.shape(c)), cond, null)
    conditions = jax.tree.map(lambda c, n: jnp.stack([c, n]), cond, null)
    if on is None:
        preds, state = jax.vmap(model, in_axes=(None, None, 0, 0, None))(x, level, conditions, state, key)
        return _first(preds), _second(preds), state

    def ask(previous, inputs):
        cond, state, wanted = inputs
        new = jax.lax.cond(wanted, lambda: model(x, level, cond, state, key), lambda: (previous, state))
        return new[0], new

    empty = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: model(x, level, cond, _first(state), key)[0])
    )
    _, (preds, state) = jax.lax.scan(ask, empty, (conditions, state, jnp.stack([jnp.ones_like(on), on])))
    return _first(preds), _second(preds), state


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda a: a[0], tree)


def _second(tree: Any) -> Any:
    return jax.tree.map(lambda a: a[1], tree)
