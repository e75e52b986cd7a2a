"""Sampling on several devices and processes: samples are split over a mesh, everything else is replicated.

Sample `i` depends on its own key alone, so the devices have nothing to tell each other: the compiled loop holds no
collective, and the samples are those of one device. Parameters that one device cannot hold may be split too.
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
    """Bytes on one device.

    Attributes:
      arguments: what goes in, parameters mostly.
      temporary: what the program needs beside it.
      output: what comes out.
    """

    arguments: int
    temporary: int
    output: int

    def __str__(self):
        parts = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in self._asdict().items())
        return f"{sum(self) / 2**20:,.1f} MiB on a device ({parts})"


def sample_mesh(devices: int | None = None) -> Mesh:
    """A mesh of the first `devices` devices, of all processes; by default all of them.

    Raises:
      Refused: more devices than there are, or none.
    """
    found = jax.devices()
    count = len(found) if devices is None else devices
    if not 1 <= count <= len(found):
        raise Refused(f"there are {len(found)} devices ({found[0].platform}), got devices={devices}; ask for 1 to that")
    return Mesh(np.asarray(found[:count]), (AXIS,))


def place(tree: Any, sharding: Any) -> Any:
    """Every array of `tree`, which all processes hold alike, as a global array of that sharding, or of one per leaf."""
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
    """A sharding per leaf of `tree`: arrays of at least `least` numbers split over `mesh`, all others on every device.

    As in fully sharded data parallelism, a device holds its share of each large parameter and gets the rest when it is
    used. The axis that is split is the longest of those that the devices divide.
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
    """`generate`, its samples split over `mesh`; every process calls it with the same arguments and gets all samples.

    Numbers of samples that the devices do not divide are filled up, and the surplus is thrown away.

    Args:
      mesh: from `sample_mesh`.
      keys, kernel, levels, shape, cond: as in `generate`.
      split: split large parameters over the devices too (`split_params`): for networks that one device cannot hold.
        The devices then do talk at every step.
      batch: samples at a time, all batches by one program; None for all at once. It does not change the samples.
      progress: the title of a progress bar on standard error, with the number of samples that failed
        (`count_failed`); None for none.
      gather: whether every process gets all samples. If not, process k of P gets the k-th of P equal parts, and no
        sample travels between processes.

    Raises:
      Refused: as `generate`; a batch of none; parts that are not equal, or that lie on devices of several processes in
        turn.
    """
    n, own = len(keys), 1 if gather else jax.process_count()
    size = n if batch is None else min(batch, n)
    if size < 1:
        raise Refused(f"there is nothing to draw: {n} keys, batch={batch}; write keys(0, n)")
    owners = [device.process_index for device in mesh.devices.flat]
    if not gather and owners != np.repeat(range(own), mesh.size // own).tolist():
        raise Refused("the mesh takes devices of several processes in turn, or not all; write sample_mesh()")
    if n % own:
        raise Refused(f"{n} samples are no equal parts for {own} processes; draw a multiple, or gather them")
    keys, kernel, levels = _prepare(keys, kernel, levels, shape, cond)
    rows = np.arange(n).reshape(own, -1)  # those of each process that gets its own
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
    """Everything, in every process."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        found = multihost_utils.process_allgather(found, tiled=True)
    return np.asarray(found)


def _own_of(mesh: Mesh, found: Any) -> np.ndarray:
    """What lies on the devices of this process, in order."""
    found = _split_samples(NamedSharding(mesh, PartitionSpec(AXIS)))(found)  # whatever the program put where
    shards = sorted(found.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


@lru_cache(maxsize=8)
def _split_samples(sharding: NamedSharding) -> Any:
    return jax.jit(lambda a: a, out_shardings=sharding)


@dataclasses.dataclass(frozen=True)
class Team:
    """The processes that run one program, of which the first says what comes next; one process is a team too.

    Attributes:
      rank: of this process.
      size: how many there are.

    >>> Team().say(3)
    3
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def of_processes(cls) -> "Team":
        """Those that `jax.distributed` knows."""
        return cls(jax.process_index(), jax.process_count())

    def say(self, number: int = 0) -> int:
        """The number of the first process, in every process, which all ask for it."""
        if self.size == 1:
            return number
        from jax.experimental import multihost_utils

        return int(multihost_utils.broadcast_one_to_all(np.int32(number)))

    def add(self, number: int) -> int:
        """The sum of the numbers of all processes, which all ask for it."""
        if self.size == 1:
            return number
        from jax.experimental import multihost_utils

        return int(np.sum(multihost_utils.process_allgather(np.int32(number))))


def start_team(environment: Any) -> None:
    """`jax.distributed.initialize`, by what the engine that started the processes says; before anything is computed.

    Args:
      environment: torchrun's MASTER_ADDR, MASTER_PORT (the next one is taken), RANK and WORLD_SIZE; else JAX finds
        Slurm, Kubernetes, Open MPI and TPUs by itself.

    Raises:
      Refused: no engine that says how the processes find each other.
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
            f"the processes of one program do not find each other ({reason}); start them by Slurm, Kubernetes, torchrun"
        ) from None


def _prepare(keys, kernel, levels, shape, cond):
    keys, kernel, levels = prepare(keys, kernel, levels, shape, cond)
    if kernel.population:
        raise Refused("the samples of a population have weights; write populations(...) in the place of generate_on")
    return keys, kernel, levels


def _arguments(mesh, keys, kernel, levels, shape, cond, split, index):
    """What `_generate` takes for the samples `index`, placed."""
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
    """What `generate_on` with these arguments will need on one device: compiled, which takes its time, and not run.

    Args:
      mesh, keys, kernel, levels, shape, cond, split: as in `generate_on`.

    Raises:
      Refused: as `generate`.
    """
    keys, kernel, levels = _prepare(keys, kernel, levels, shape, cond)
    given = _arguments(mesh, keys, kernel, levels, shape, cond, split, np.arange(len(keys)))
    found = _generate.lower(*given).compile().memory_analysis()
    return Memory(found.argument_size_in_bytes, found.temp_size_in_bytes, found.output_size_in_bytes)
