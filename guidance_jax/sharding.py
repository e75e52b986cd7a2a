"""Sampling on several devices and processes: samples are split over a mesh, everything else is replicated.

Sample `i` depends only on its own key, so devices do not communicate: the compiled loop has no collectives, and the
samples are those of one device. Parameters that one device cannot hold may be split, too.
"""

import dataclasses
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from guidance_jax._typing import Array
from guidance_jax.core import Level, Refused, Rows, count_failed, first_line
from guidance_jax.progress import Bar
from guidance_jax.sample import _generate, prepare

AXIS = "samples"


class Memory(NamedTuple):
    """The memory of a program on one device, in bytes.

    Attributes:
      arguments: its inputs, mostly parameters.
      temporary: its intermediate values.
      output: its outputs.
    """

    arguments: int
    temporary: int
    output: int

    def __str__(self):
        parts = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in self._asdict().items())
        return f"{sum(self) / 2**20:,.1f} MiB on a device ({parts})"


def sample_mesh(devices: int | None = None) -> Mesh:
    """Make a mesh of the first `devices` devices of all processes; None takes all of them.

    Raises:
      Refused: more devices than there are, or none.
    """
    found = jax.devices()
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        raise Refused(
            f"there are {len(found)} devices ({found[0].platform}), got devices={devices}; use a number from 1 to "
            f"{len(found)}"
        )
    return Mesh(np.asarray(found[:count]), (AXIS,))


def place(tree: Any, sharding: Any) -> Any:
    """Make global arrays of `tree`, which is the same in all processes. `sharding` is one for all, or one per leaf."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def one(a, own):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(a), own), impl=jax.random.key_impl(a))
        host = np.asarray(a)
        return jax.make_array_from_callback(host.shape, own, lambda index: host[index])

    if isinstance(sharding, NamedSharding):
        return jax.tree.map(lambda a: one(a, sharding), tree)
    return jax.tree.map(one, tree, sharding)


def split_params(tree: Any, mesh: Mesh, least: int = 2**14) -> Any:
    """Return a sharding per leaf of `tree`: arrays of `least` numbers or more are split over `mesh`, others replicated.

    As in fully sharded data parallelism, a device holds its share of each large parameter and gets the rest when it is
    used. The longest axis that the number of devices divides is split.
    """

    def one(a):
        axes = [i for i, n in enumerate(jnp.shape(a)) if n % mesh.size == 0 and np.size(a) >= least]
        longest = max(axes, key=lambda i: a.shape[i], default=None)
        return NamedSharding(mesh, PartitionSpec(*(AXIS if i == longest else None for i in range(jnp.ndim(a)))))

    return jax.tree.map(one, tree)


def generate_on(
    mesh: Mesh,
    keys: Array,
    kernel: Any,
    levels: Level,
    shape: tuple[int, ...],
    cond: Any = None,
    *,
    split: bool = False,
    batch: int | None = None,
    progress: str | None = None,
    gather: bool = True,
) -> np.ndarray:
    """Run `generate` with its samples split over `mesh`.

    Every process calls it with the same arguments and gets all samples. If the devices do not divide the number of
    samples, surplus samples are drawn and thrown away.

    Args:
      mesh: the devices, from `sample_mesh`.
      keys, kernel, levels, shape, cond: as in `generate`.
      split: whether to split large parameters over the devices, too (`split_params`), for networks that one device
        cannot hold. The devices then communicate at every step.
      batch: the number of samples at a time; one program runs all batches. None draws all at once. It does not change
        the samples.
      progress: the title of a progress bar on standard error, with the number of samples that failed
        (`count_failed`); None for no bar.
      gather: whether every process gets all samples. If not, process k of P gets the k-th of P equal parts, and no
        sample travels between processes.

    Raises:
      Refused: what `generate` refuses; no samples, or a batch of none. Without `gather` also a number of samples that
        the processes do not divide, and a mesh with devices of several processes in turn.
    """
    n, own = len(keys), 1 if gather else jax.process_count()
    size = n if batch is None else min(batch, n)
    if size < 1:
        raise Refused(f"there is nothing to draw: {n} keys, batch={batch}; write keys(0, n)")
    owners = [device.process_index for device in mesh.devices.flat]
    if not gather and owners != np.repeat(range(own), mesh.size // own).tolist():
        raise Refused("the mesh must hold all devices, ordered by process; write sample_mesh()")
    if n % own:
        raise Refused(f"{own} processes do not divide {n} samples; draw a multiple of {own}, or gather the samples")
    keys, kernel, levels = _prepare(keys, kernel, levels, shape, cond)
    rows = np.arange(n).reshape(own, -1)  # one row per process that gets its own part
    size = -(-size // own)
    size += 0 if gather else -size % (mesh.size // own)
    parts, bad, count = [], 0, rows.shape[1]
    with Bar(progress, n, 0, "failed") as advance:
        for start in range(0, count, size):
            stop = min(start + size, count)
            index = rows[:, np.resize(np.arange(start, stop), size)].reshape(-1)  # the last batch is filled up
            found = _generate(*_arguments(mesh, keys, kernel, levels, shape, cond, split, index))
            part = (_all_of(found) if gather else _own_of(mesh, found))[: stop - start]
            parts.append(part)
            if progress is not None:
                bad += count_failed(part)
                advance(stop * own, bad)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _all_of(found: Any) -> np.ndarray:
    """Return all samples, in every process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        found = multihost_utils.process_allgather(found, tiled=True)
    return np.asarray(found)


def _own_of(mesh: Mesh, found: Any) -> np.ndarray:
    """Return the samples on the devices of this process, in order."""
    found = _split_samples(NamedSharding(mesh, PartitionSpec(AXIS)))(found)  # wherever the program left them
    shards = sorted(found.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


@lru_cache(maxsize=8)
def _split_samples(sharding: NamedSharding) -> Any:
    return jax.jit(lambda a: a, out_shardings=sharding)


@dataclasses.dataclass(frozen=True)
class Team:
    """The processes that run one program. The first of them tells the others what comes next. One process is a team.

    Attributes:
      rank: the number of this process, 0 for the first.
      size: the number of processes.

    >>> Team().say(3)
    3
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_processes(cls) -> "Team":
        """Return the team of all processes that `jax.distributed` knows."""
        return cls(jax.process_index(), jax.process_count())

    def say(self, number: int = 0) -> int:
        """Return the `number` of the first process in every process. All processes must call it."""
        if self.size == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def add(self, number: int) -> int:
        """Return the sum of the `number` of all processes. All processes must call it."""
        if self.size == 1:
            return number
        from jax.experimental import multihost_utils

        return int(np.sum(multihost_utils.process_allgather(np.int32(number))))


def start_team(environment: Any) -> None:
    """Call `jax.distributed.initialize` with what the launcher of the processes says, before anything is computed.

    Args:
      environment: the environment variables. If MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE are set, they are used;
        torchrun listens on its port, so there the next port is taken. Otherwise JAX finds Slurm, Kubernetes, Open MPI
        and TPUs by itself.

    Raises:
      Refused: no launcher that says how the processes find each other.
    """
    told = [environment.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")]
    try:
        if all(told):
            address, port, count, rank = told
            beside = 1 if environment.get("TORCHELASTIC_RUN_ID") else 0  # torchrun itself listens on its port
            jax.distributed.initialize(f"{address}:{int(port) + beside}", int(count), int(rank))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise Refused(
            f"the processes of one program cannot connect to each other ({reason}); start them by Slurm, Kubernetes, "
            "torchrun"
        ) from None


def _prepare(keys, kernel, levels, shape, cond):
    keys, kernel, levels = prepare(keys, kernel, levels, shape, cond)
    if kernel.population:
        raise Refused("the samples of a population have weights; write populations(...) instead of generate_on")
    return keys, kernel, levels


def _arguments(mesh, keys, kernel, levels, shape, cond, split, index):
    """Return the arguments of `_generate` for the samples `index`, placed on the devices."""
    index = np.resize(index, -(-len(index) // mesh.size) * mesh.size)
    kernel = jax.tree.map(
        lambda node: jax.tree.map(lambda a: a[index], node) if isinstance(node, Rows) else node,
        kernel,
        is_leaf=lambda node: isinstance(node, Rows),
    )
    samples, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())
    keys, cond = place(jax.tree.map(lambda a: jnp.asarray(a)[index], (keys, cond)), samples)
    kernel, levels = place(kernel, split_params(kernel, mesh) if split else whole), place(levels, whole)
    return keys, kernel, levels, tuple(shape), cond, None


def memory(
    mesh: Mesh,
    keys: Array,
    kernel: Any,
    levels: Level,
    shape: tuple[int, ...],
    cond: Any = None,
    *,
    split: bool = False,
) -> Memory:
    """Return the memory that `generate_on` with these arguments needs on one device. It compiles, and does not run.

    Args:
      mesh, keys, kernel, levels, shape, cond, split: as in `generate_on`.

    Raises:
      Refused: what `generate` refuses.
    """
    keys, kernel, levels = _prepare(keys, kernel, levels, shape, cond)
    given = _arguments(mesh, keys, kernel, levels, shape, cond, split, np.arange(len(keys)))
    found = _generate.lower(*given).compile().memory_analysis()
    return Memory(found.argument_size_in_bytes, found.temp_size_in_bytes, found.output_size_in_bytes)
