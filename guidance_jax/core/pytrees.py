"""Frozen dataclasses that are pytrees: numbers are leaves, functions and counts are part of the program."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")


def static(**options: Any) -> Any:
    """A dataclass field that is part of the program (a function, a repeat count), not a traced number.

    `options` are those of `dataclasses.field`: `default`, `kw_only`.
    """
    return dataclasses.field(metadata={"static": True}, **options)


def converted(convert: Callable[[Any], Any], **options: Any) -> Any:
    """A dataclass field whose value goes through `convert` when the object is made: functions become objects there.

    `options` are those of `dataclasses.field`.

    >>> @pytree
    ... class Scaled:
    ...     scale: float = converted(float)
    >>> Scaled("2").scale
    2.0
    """
    return dataclasses.field(metadata={"convert": convert}, **options)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field, static, converted))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it as a pytree; fields made by `static()` are not leaves.

    Objects are compared and hashed by identity, since arrays cannot be. A `__repr__` of a base class is kept.
    """
    own = [v for v in vars(cls).values() if isinstance(v, dataclasses.Field) and "convert" in v.metadata]
    if own:
        inherited: Any = getattr(cls, "__post_init__", None)  # a dataclass need not have one

        def convert_fields(self):
            for field in dataclasses.fields(self):
                if "convert" in field.metadata:
                    object.__setattr__(self, field.name, field.metadata["convert"](vars(self)[field.name]))
            if inherited is not None:
                inherited(self)

        cls.__post_init__ = convert_fields  # type: ignore[attr-defined]
    plain = cls.__repr__ is object.__repr__
    return register_pytree(dataclasses.dataclass(frozen=True, eq=False, repr=plain)(cls))


def register_pytree(cls: Any) -> Any:
    """`cls` known to JAX as a pytree whose structure names its class.

    `jax.tree_util.register_dataclass` would not do: from JAX 0.10 on (seen on 0.10.2 and 0.12.0; not on 0.7.2) the
    structures of two such classes with the same fields compare equal, though their hashes differ. `jax.jit` then takes,
    once in a hundred pairs of methods or so, the compiled program of the one for the other.
    """
    names: dict[bool, list[str]] = {False: [], True: []}
    for field in dataclasses.fields(cls):
        names[bool(field.metadata.get("static"))].append(field.name)
    data, meta = (tuple(names[static]) for static in (False, True))
    keys = tuple(map(jax.tree_util.GetAttrKey, data))

    def flatten(node):
        values = vars(node)
        return tuple(values[name] for name in data), (cls, tuple(values[name] for name in meta))

    def flatten_with_keys(node):
        children, structure = flatten(node)
        return tuple(zip(keys, children, strict=True)), structure

    def unflatten(structure, children):
        node = object.__new__(cls)
        vars(node).update(zip(data, children, strict=True))
        vars(node).update(zip(meta, structure[1], strict=True))
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


class Rows:
    """A pytree whose arrays have one row per sample: those who run many samples at once hand each its own."""


def rows(tree: Any) -> Any:
    """For `jax.vmap`: 0 where the arrays of `tree` have one row per sample, None where all samples share them."""

    def axes(node):
        return jax.tree.map(lambda _: 0, node) if isinstance(node, Rows) else None

    return jax.tree.map(axes, tree, is_leaf=lambda node: isinstance(node, Rows))


def function(f: Any) -> Any:
    """The callable `f` as a pytree: a bound method with the numbers of its object as leaves, a plain one without any.

    Two wraps of the same function are equal, so a function defined once never retraces; a fresh `lambda` always does.
    What already is a pytree stays as it is.
    """
    if isinstance(f, types.MethodType):
        return jax.tree_util.Partial(f.__func__, f.__self__)
    opaque = callable(f) and jax.tree.leaves(f) == [f]
    return jax.tree_util.Partial(f) if opaque else f


def concrete(value: Any) -> bool:
    """True if every number in `value` is known now, so that a check may look at it."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def known_zero(value: Any) -> bool:
    """Whether all numbers of `value` are known now, and zero."""
    return concrete(value) and not np.any(np.asarray(value))


class Bound:
    """`f` of a `module`, and of more leading arguments, where the module is at hand as `module`.

    Equal to another of an equal function, module and arguments, so that nothing retraces; a `functools.partial` equals
    itself alone.
    """

    def __init__(self, f: Callable, module: Any, *more: Any):
        self.f, self.module, self.more = f, module, more

    def __call__(self, *args: Any) -> Any:
        return self.f(self.module, *self.more, *args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and (self.f, self.module, self.more) == (other.f, other.module, other.more)

    def __hash__(self) -> int:
        return hash((self.f, self.module, self.more))
