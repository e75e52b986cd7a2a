"""jaxtyping's vocabulary where it is installed (the tests), `Any` elsewhere: it is not a run-time dependency."""

from typing import TYPE_CHECKING, Any

from jax import Array

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Key, PyTree
else:
    try:
        from jaxtyping import Float, Int, Key, PyTree
    except ModuleNotFoundError:

        class _Anything:
            def __class_getitem__(cls, item):
                return Any

        Float = Int = Key = _Anything
        PyTree = Any

__all__ = ["Array", "Float", "Int", "Key", "PyTree"]
