"""What the guidance methods share: a denoiser made from a denoiser, and contrasts of two predictions."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from guidance_jax.core import Denoiser, Level, Refused, Wrapper
from guidance_jax.guidance.scales import check_scales


class Guidance(Wrapper, Denoiser):
    """A denoiser made from the denoiser `inner`; by default it adds no state and no conditions of its own.

    `takes` is the class of spaces the method is for.
    """

    def check_inner(self):
        super().check_inner()
        check_scales(self, self.inner)


class Contrast(Guidance):
    """Guidance between two denoisers, weak + scale (strong - weak), which aims at p_weak^(1 - scale) p_strong^scale.

    `Corrected` makes it sample just that: `parts` shows the two predictions beside the guided one.
    """

    scale: Any
    aims_at_power: ClassVar[bool] = True  # False where a rule has more to it than these two and the scale

    def parts(self, x: Any, level: Level, cond: Any, state: Any, key: Any) -> tuple[Any, Any, Any, Any]:
        """(guided, strong, weak, new state)."""
        raise NotImplementedError

    def __call__(self, x, level, cond, state, key):
        guided, _, _, state = self.parts(x, level, cond, state, key)
        return guided, state


def only_guided(model: Denoiser, guided: Any, own: Any) -> Any:
    """`guided` in the channels that the model wants guided (`Domain.guided_channels`), `own` in the others."""
    channels = None if model.domain is None else model.domain.guided_channels
    if channels is None:
        return guided
    chosen = jnp.arange(own.x0.shape[-1]) < channels
    x0, eps = (jnp.where(chosen, a, b) for a, b in ((guided.x0, own.x0), (guided.eps, own.eps)))
    return dataclasses.replace(guided, x0=x0, eps=eps)


def check_conditions(rule: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
    """Raise unless there is a condition and one that means "unconditional", and what is inside takes both."""
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
            f"{name} asks what is inside with its null condition too, which is refused: {error}; "
            "a classifier goes outside: Classifier(CFG(model, ...), classifier, ...)"
        ) from None


def complete_null(null: Any, cond: Any) -> Any:
    """The null condition of a sample: entries that `null`, a dict, does not have are those of the sample's own."""
    return {**cond, **null} if isinstance(null, dict) and isinstance(cond, dict) else null


def stack_states(state: Any, count: int = 2) -> Any:
    """The state of a denoiser for `count` conditions, on a new leading axis."""
    return jax.tree.map(lambda s: jnp.stack([s] * count), state)


def both(model: Any, x: Any, level: Level, cond: Any, null: Any, state: Any, key: Any, on: Any = None) -> tuple:
    """(conditional, unconditional, state) predictions of `model`, whose state is stacked: [conditional, null].

    One network call, by `vmap` over the two conditions. Where `on` may be False the two are asked in turn, in a
    loop that inlines the network once, and the unconditional one is skipped: it is then a copy of the conditional.
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
