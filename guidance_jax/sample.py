"""The one loop. Gaussian diffusion, flows, tokens and text: everything built from kernels runs through `sample`."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Key
from guidance_jax.core import Kernel, Level, check, concrete, normal, real, within


def keys(seed: int | Key[Array, ""], n: int, start: int = 0) -> Key[Array, " n"]:
    """One key per sample, by its index: sample `i` gets the same key whatever `n` and `start` are.

    >>> jax.random.key_data(keys(0, 3)[2]).tolist() == jax.random.key_data(keys(0, 1, start=2)[0]).tolist()
    True
    """
    key = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(start, start + n))


def check_levels(levels: Level) -> None:
    """Raise unless `levels` is a sequence of at least two levels whose noise-to-signal ratio falls strictly."""
    shapes = [jnp.shape(a) for a in levels]
    if len(set(shapes)) != 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
        raise ValueError(
            f"levels must be three vectors of one length >= 2, got shapes {shapes}; write schedule.levels(50)"
        )
    if concrete(levels):
        alpha, sigma = np.asarray(levels.alpha, np.float64), np.asarray(levels.sigma, np.float64)
        falls = alpha[:-1] * sigma[1:] < alpha[1:] * sigma[:-1]
        if not falls.all():
            i = int(np.argmin(falls))
            raise ValueError(
                f"levels must fall from noise to data, got sigma/alpha = {sigma[i]:.4g}/{alpha[i]:.4g} then "
                f"{sigma[i + 1]:.4g}/{alpha[i + 1]:.4g} at step {i}; write schedule.levels(50)"
            )


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
    """Scan `kernel` over consecutive levels, for one sample; only the number of levels is static.

    Args:
      key: one key; every draw of this sample comes from it.
      kernel: one reverse transition, for example `Reverse(model, DDIM())`.
      levels: `n + 1` levels from noisy to clean: `n` steps.
      x: the start, of shape `event_shape`, at `levels.at(0)`; float32 or float64, or int32 tokens.
      cond: what the denoisers are conditioned on, for example a label; a pytree or None.
      record: `record(carry)` is stacked over the steps and returned too; by default nothing is kept.
      unroll: steps of the scan that are unrolled, as in `jax.lax.scan`.

    Returns:
      The last carry (`carry.x` is the sample), or `(carry, records)` if `record` is given.

    Raises:
      ValueError: levels that do not fall, a half-precision start, or whatever the parts of the kernel refuse.
    """
    check_levels(kernel.busy(levels) if hasattr(kernel, "busy") else levels)
    for leaf in jax.tree.leaves(x):
        if leaf.dtype not in (jnp.float32, jnp.float64, jnp.int32):
            raise ValueError(
                f"the sampling state must be float32 or float64, or int32 tokens, got {leaf.dtype}; keep half "
                "precision inside the network: x.astype(jnp.float32)"
            )
    check(kernel, levels, jnp.shape(x), cond)
    levels = Level(*(jnp.asarray(a, real(x)) for a in levels))

    def body(carry, inputs):
        t, s, key = inputs
        carry = kernel(carry, t, s, cond, key)
        return carry, None if record is None else record(carry)

    steps = len(levels.t) - 1
    inputs = (levels.at(slice(None, -1)), levels.at(slice(1, None)), jax.random.split(key, steps))
    carry, records = jax.lax.scan(body, kernel.init(x), inputs, unroll=unroll)
    return carry if record is None else (carry, records)


def start(key: Key[Array, ""], kernel: Kernel, levels: Level, shape: tuple[int, ...]) -> Array:
    """What sampling starts from: what a part of `kernel` says, such as tokens of its process, else noise N(0, sigma^2).

    The noise is what the forward process leaves of data with little or no signal.
    """
    owner = within(kernel, "start")
    if owner is not None:
        return owner.start(key, levels, shape)
    sigma = jnp.asarray(levels.sigma[0])
    return sigma * normal(key, jnp.zeros(shape, jnp.promote_types(sigma.dtype, jnp.float32)))


@partial(jax.jit, static_argnames="shape")
def _generate(keys, kernel, levels, shape, cond, x):
    def one(key, cond, x):
        first, rest = jax.random.split(key)
        return sample(rest, kernel, levels, start(first, kernel, levels, shape) if x is None else x, cond).x

    return jax.vmap(one)(keys, cond, x)


def generate(
    keys: Key[Array, " n"], kernel: Kernel, levels: Level, shape: tuple[int, ...], cond: Any = None, x: Any = None
) -> Array:
    """Draw one sample per key in one compiled program: `vmap(sample)` from noise, jitted.

    Nothing numeric is compiled in: another scale, label, eta, schedule, window or set of parameters runs the same
    program. Sample `i` depends on `keys[i]` and `cond[i]` alone.

    Args:
      keys: `(n,)` keys, for example `keys(seed, n)`.
      kernel, levels: as in `sample`.
      shape: the shape of one sample, for example `(32, 32, 3)`.
      cond: a pytree whose leaves have leading axis `n` (labels of shape `(n,)`), or None.
      x: what to start from, `(n, *shape)`, for example sequences to edit; by default noise.

    Returns:
      Samples of shape `(n, *shape)`.

    Raises:
      ValueError: as `sample`, and for conditions or starts that are not one per key.
    """
    if x is not None and jnp.shape(x) != (len(keys), *shape):
        raise ValueError(f"x must hold one start per key, {(len(keys), *shape)}, got {jnp.shape(x)}")
    kernel, levels = checked(len(keys), kernel, levels, shape, cond)
    return _generate(keys, kernel, levels, tuple(shape), *jax.tree.map(jnp.asarray, (cond, x)))


def checked(n: int, kernel: Kernel, levels: Level, shape: tuple[int, ...], cond: Any) -> tuple[Kernel, Level]:
    """The kernel and levels with strong types, if they and the conditions of `n` samples are what each part takes."""
    for leaf in jax.tree.leaves(cond):
        if jnp.shape(leaf)[:1] != (n,):
            raise ValueError(
                f"cond must hold one condition per key ({n}), got shape {jnp.shape(leaf)}; write jnp.full({n}, label)"
            )
    check_levels(kernel.busy(levels) if hasattr(kernel, "busy") else levels)
    check(kernel, levels, tuple(shape), cond)
    return jax.tree.map(strong, (kernel, levels))


def strong(number: Any) -> Any:
    """An array without JAX's weak type, so that `2.0` and `jnp.float32(2.0)` share one program; functions too."""
    if callable(number):
        return jax.tree_util.Partial(number)
    try:
        a = jnp.asarray(number)
    except TypeError:
        raise ValueError(
            f"kernels are made of pytrees and numbers, got {type(number).__name__}; wrap a function f(x, level, cond) "
            "-> x0 as Function(f)"
        ) from None
    return jax.lax.convert_element_type(a, a.dtype) if getattr(a, "weak_type", False) else a
