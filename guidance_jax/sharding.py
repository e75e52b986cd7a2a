"""Sampling on several devices and processes: samples are split over a mesh, everything else is replicated.

Sample `i` depends on its own key alone, so the devices have nothing to tell each other: the compiled loop holds no
collective, and the samples are those of one device.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from guidance_jax._typing import Array, Key
from guidance_jax.core import Kernel, Level
from guidance_jax.sample import _generate, checked

AXIS = "samples"


def sample_mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices, of all processes; by default all of them.

    Raises:
      ValueError: more devices than there are, or none.
    """
    found = jax.devices()
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        raise ValueError(
            f"there are {len(found)} devices ({found[0].platform}), got devices={devices}; ask for 1 to that"
        )
    return Mesh(np.asarray(found[:count]), (AXIS,))


def placed(tree: Any, sharding: NamedSharding) -> Any:
    """Every array of `tree`, which all processes hold alike, as a global array of that sharding."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(a):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(a)), impl=jax.random.key_impl(a))
        host = np.asarray(a)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree)


def generate_on(
    mesh: Mesh, keys: Key[Array, " n"], kernel: Kernel, levels: Level, shape: tuple[int, ...], cond: Any = None
) -> np.ndarray:
    """`generate`, its samples split over `mesh`; every process calls it with the same arguments and gets all samples.

    Numbers of samples that the devices do not divide are filled up, and the surplus is thrown away.

    Args:
      mesh: from `sample_mesh`.
      keys, kernel, levels, shape, cond: as in `generate`.

    Raises:
      ValueError: as `generate`.
    """
    n, count = len(keys), mesh.size
    kernel, levels = checked(n, kernel, levels, shape, cond)
    index = np.resize(np.arange(n), -(-n // count) * count)
    split, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
    keys, cond = placed(jax.tree.map(lambda a: jnp.asarray(a)[index], (keys, cond)), split)
    kernel, levels = placed((kernel, levels), whole)
    found = _generate(keys, kernel, levels, tuple(shape), cond, None)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(found, tiled=True))[:n]
    return np.asarray(found)[:n]
