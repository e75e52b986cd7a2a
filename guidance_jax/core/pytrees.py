"""Frozen dataclasses that are pytrees: numbers are leaves, functions and counts are part of the compiled program."""

import dataclasses
import types
from collections.abc import Callable
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")


def static(**options: Any) -> Any:
    """Declare a dataclass field that is part of the compiled program (a function, a repeat count), no traced number.

    `options` are passed to `dataclasses.field`: `default`, `kw_only`.

    >>> @pytree
    ... class Repeated:
    ...     rate: float
    ...     times: int = static(default=2)
    >>> jax.tree.leaves(Repeated(0.5))
    [0.5]
    """
    return dataclasses.field(metadata={"static": True}, **options)


def converted(convert: Callable[[Any], Any], **options: Any) -> Any:
    """Declare a dataclass field whose value goes through `convert` when the object is made.

    For example, `convert` turns a function into a `Guide`. `options` are passed to `dataclasses.field`.

    >>> @pytree
    ... class Scaled:
    ...     scale: float = converted(float)
    >>> Scaled("2").scale
    2.0
    """
    return dataclasses.field(metadata={"convert": convert}, **options)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(dataclasses.field, static, converted))
def pytree(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and register it as a pytree. Fields made by `static()` are not leaves.

    Objects are compared and hashed by identity, since arrays have no hash. A `__repr__` of a base class is kept.
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
    """Register `cls` with JAX as a pytree whose structure contains the class, and return `cls`.

    `jax.tree_util.register_dataclass` is not enough. From JAX 0.10 on (seen on 0.10.2 and 0.12.0; not on 0.7.2) the
    structures of two classes with the same fields compare equal, though their hashes differ. `jax.jit` then runs the
    compiled program of one class for the other, in about one of a hundred pairs of methods.
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
    """A pytree whose arrays have one row per sample. Functions that run many samples give each sample its own row."""


def rows(tree: Any) -> Any:
    """Return `in_axes` for `jax.vmap`: 0 where arrays of `tree` have one row per sample, None where samples share."""

    def axes(node):
        return jax.tree.map(lambda _: 0, node) if isinstance(node, Rows) else None

    return jax.tree.map(axes, tree, is_leaf=lambda node: isinstance(node, Rows))


def function(f: Any) -> Any:
    """Turn the callable `f` into a pytree. A bound method has the numbers of its object as leaves, a function has none.

    Two wrappers of the same function are equal, so a function that is defined once is never traced again. A new
    `lambda` always is. An `f` that is a pytree already is returned unchanged.
    """
    if isinstance(f, types.MethodType):
        return jax.tree_util.Partial(f.__func__, f.__self__)
    opaque = callable(f) and jax.tree.leaves(f) == [f]
    return jax.tree_util.Partial(f) if opaque else f


def concrete(value: Any) -> bool:
    """Return True if no number in `value` is traced, so that a check can read it."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def known_zero(value: Any) -> bool:
    """Return whether all numbers of `value` are known now and are zero."""
    return concrete(value) and not np.any(np.asarray(value))


class Bound:
    """Call `f` with a `module` and `more` as its leading arguments. The module stays accessible as `module`.

    Two objects are equal if their functions, modules and arguments are, so that nothing is traced again. A
    `functools.partial` is equal only to itself.
    """

    def __init__(self, f: Callable, module: Any, *more: Any):
        self.f, self.module, self.more = f, module, more

    def __call__(self, *args: Any) -> Any:
        return self.f(self.module, *self.more, *args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bound) and (self.f, self.module, self.more) == (other.f, other.module, other.more)

    def __hash__(self) -> int:
        return hash((self.f, self.module, self.more))
