"""The sampling loop. `sample` runs every kernel: Gaussian diffusion, flows, tokens and text."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Key
from guidance_jax.core import (
    Kernel,
    Level,
    Refused,
    Rows,
    check_levels,
    concrete,
    float_type,
    keep_failed,
    need,
    rows,
)

THREEFRY = "threefry2x32"


def keys(seed: Any, n: int, start: int = 0) -> Key[Array, " n"]:
    """Make one key per sample from its index: sample `i` gets the same key whatever `n` and `start` are.

    They are threefry keys, whatever JAX's default is (`as_threefry`).

    Args:
      seed: an integer, traced or not, or a key.
      n: the number of keys.
      start: the index of the first sample.

    >>> jax.random.key_data(keys(0, 3)[2]).tolist() == jax.random.key_data(keys(0, 1, start=2)[0]).tolist()
    True
    """
    number = isinstance(seed, int | np.integer) or (
        isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jnp.integer) and seed.ndim == 0
    )
    key = jax.random.key(seed, impl=THREEFRY) if number else as_threefry(seed)
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(start, start + n))


def as_threefry(keys: Any) -> Any:
    """Convert keys of any kind to threefry keys, whose draws under `vmap` do not depend on the batch; `rbg`'s do.

    Of keys of four words the first two are used.
    """
    if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        if str(jax.random.key_impl(keys)) == THREEFRY:
            return keys
        keys = jax.random.key_data(keys)
    return jax.random.wrap_key_data(keys[..., :2], impl=THREEFRY)


def sample(
    key: Key[Array, ""],
    kernel: Kernel,
    levels: Level,
    x: Any,
    cond: Any = None,
    *,
    record: Callable[[Any], Any] | None = None,
    unroll: int = 1,
) -> Any:
    """Draw one sample: scan `kernel` over consecutive levels. Only the number of levels is static.

    Args:
      key: one key; every draw of this sample comes from it.
      kernel: one reverse transition, for example `Reverse(model, DDIM())`.
      levels: the levels from noisy to clean, one more than the steps.
      x: the start, of shape `event_shape`, at `levels.at(0)`; float32 or float64, or int32 tokens.
      cond: what the denoisers are conditioned on, for example a label; a pytree or None.
      record: a function of the carry. Its values after each step are stacked and returned, too; None records nothing.
      unroll: the number of steps of the scan that are unrolled, as in `jax.lax.scan`.

    Returns:
      The last carry, finished (`carry.x` is the sample), or `(carry, records)` if `record` is given.

    Raises:
      Refused: levels that do not fall, a half-precision start, or whatever the parts of the kernel refuse.
    """
    check_kernel(kernel, levels, jnp.shape(x), cond)
    key = as_threefry(key)
    for leaf in jax.tree.leaves(x):
        if leaf.dtype not in (jnp.float32, jnp.float64, jnp.int32):
            raise Refused(
                f"the sampling state must be float32 or float64, or int32 tokens, got {leaf.dtype}; keep half "
                "precision inside the network: x.astype(jnp.float32)"
            )
    levels = Level(*(jnp.asarray(a, float_type(x)) for a in levels))

    def body(carry, inputs):
        t, s, key = inputs
        before, carry = carry, kernel(carry, t, s, cond, key)
        if not kernel.population:  # in a population, weights mark failed particles
            carry = carry._replace(x=keep_failed(carry.x, before.x))
        return carry, None if record is None else record(carry)

    steps = len(levels.t) - 1
    inputs = (levels.at(slice(None, -1)), levels.at(slice(1, None)), jax.random.split(key, steps))
    carry, records = jax.lax.scan(body, kernel.init(kernel.space.mark_foreign(x)), inputs, unroll=unroll)
    carry = kernel.finish(carry, levels.at(-1), cond, jax.random.fold_in(key, steps))
    return carry if record is None else (carry, records)


@partial(jax.jit, static_argnames="shape")
def _generate(keys, kernel, levels, shape, cond, x):
    def one(key, kernel, cond, x):
        start_key, step_key = jax.random.split(key)
        x = kernel.start(start_key, levels, shape) if x is None else x
        return kernel.space.mark_unfinished(sample(step_key, kernel, levels, x, cond).x)

    return jax.vmap(one, in_axes=(0, rows(kernel), 0, 0))(keys, kernel, cond, x)


def generate(keys: Array, kernel: Any, levels: Level, shape: tuple[int, ...], cond: Any = None, x: Any = None) -> Array:
    """Draw one sample per key in one compiled program: `vmap(sample)` from noise, jitted.

    No number is compiled in: another scale, label, eta, window, or other levels or parameters of the same shapes run
    the same program. Sample `i` depends only on `keys[i]` and `cond[i]`.

    Args:
      keys: `(n,)` keys, for example `keys(seed, n)`.
      kernel: as in `sample`; all samples share its scales, unless `PerSample(scales)` has one per sample.
      levels: as in `sample`.
      shape: the shape of one sample, for example `(32, 32, 3)`.
      cond: a pytree whose leaves have leading axis `n` (labels of shape `(n,)`), or None.
      x: the starts, `(n, *shape)`, for example sequences to edit; None to start from noise.

    Returns:
      Samples of shape `(n, *shape)`, in the units of the training data. Images are only about in [-1, 1], since nothing
      but `Clip` clips them. An image or vector that met a number which is not finite holds NaN or infinity. A sequence
      of tokens that met one is all `FAILED`. The other samples do not change.

    Raises:
      Refused: what `sample` refuses; keys that are no vector of keys, conditions or starts that are not one per key,
        and kernels of populations, whose samples have weights.
    """
    need("generate", kernel, Kernel, "the kernel")
    if kernel.population:
        raise Refused(
            "the samples of a population have weights, which generate would lose; write populations(keys, kernel, "
            "levels, shape, n, cond) and take .best(), or .draw(key)"
        )
    keys, kernel, levels = prepare(keys, kernel, levels, shape, cond)
    if x is not None and jnp.shape(x) != (len(keys), *shape):
        raise Refused(f"x must hold one start per key, {(len(keys), *shape)}, got {jnp.shape(x)}")
    return _generate(keys, kernel, levels, tuple(shape), *jax.tree.map(jnp.asarray, (cond, x)))


def check_kernel(kernel: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> None:
    """Raise `Refused` unless `kernel` is a kernel and takes these levels, samples of `shape` and conditions."""
    need("sample", kernel, Kernel, "the kernel")
    check_levels(kernel.moving(levels))
    kernel.check(levels, shape, cond)


def prepare(keys: Any, kernel: Any, levels: Level, shape: tuple[int, ...], cond: Any) -> tuple[Any, Kernel, Level]:
    """Check all arguments, and return threefry keys, and the kernel and levels without weak types.

    Raises:
      Refused: keys that are no vector of keys, conditions that are not one per key, or what a part refuses.
    """
    if not isinstance(keys, jax.Array | np.ndarray):
        raise Refused(f"keys must be a vector, one per sample, got {keys!r}; write keys(0, n)")
    if not isinstance(levels, Level):
        raise Refused(
            f"levels must be a Level, got {levels!r}; write Cosine().levels(30), with the schedule of the model"
        )
    typed = jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    if jnp.ndim(keys) != (1 if typed else 2):
        raise Refused(
            f"keys must be a vector, one per sample, got {keys.dtype} of shape {keys.shape}; write keys(0, n)"
        )
    for leaf in jax.tree.leaves(cond):
        if jnp.shape(leaf)[:1] != (len(keys),):
            raise Refused(
                f"cond must hold one condition per key ({len(keys)}), got shape {jnp.shape(leaf)}; "
                f"write jnp.full({len(keys)}, label)"
            )
    check_kernel(kernel, levels, tuple(shape), cond)
    kernel.space.check_finished(kernel.moving(levels))
    check_numbers(kernel)
    for node in jax.tree.leaves(kernel, is_leaf=lambda node: isinstance(node, Rows)):
        for leaf in jax.tree.leaves(node) if isinstance(node, Rows) else ():
            if jnp.shape(leaf) != (len(keys),):
                raise Refused(
                    f"{type(node).__name__} holds one number for each of the {len(keys)} keys, got shape "
                    f"{jnp.shape(leaf)}; write {type(node).__name__}(jnp.full({len(keys)}, scale))"
                )
    return as_threefry(keys), *jax.tree.map(strong, (kernel, levels))


def check_numbers(kernel: Kernel) -> None:
    """Raise `Refused` if a number of `kernel`, such as a scale or a strength, is known and NaN."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(kernel):
        number = isinstance(leaf, float | np.floating) or (isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim == 0)
        if number and concrete(leaf) and leaf != leaf:
            raise Refused(f"{jax.tree_util.keystr(path).lstrip('.')} is NaN; give every number of a kernel a value")


def strong(number: Any) -> Any:
    """Convert a number to an array without JAX's weak type, so that `2.0` and `jnp.float32(2.0)` share one program.

    A function becomes a `Partial`.
    """
    if callable(number):
        return jax.tree_util.Partial(number)
    try:
        a = jnp.asarray(number)
    except TypeError:
        raise Refused(
            f"a kernel holds pytrees and numbers, such as a scale, got {str(number)[:40]!r} ({type(number).__name__}); "
            "write a number"
        ) from None
    weak = getattr(a, "weak_type", False)  # arrays of keys have no such attribute
    return jax.lax.convert_element_type(a, a.dtype) if weak else a
