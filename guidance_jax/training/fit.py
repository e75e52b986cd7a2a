"""The training loop: optax steps, driven from the host. A stopped run resumes at its last saved step."""

import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from guidance_jax.checkpoints.store import Run
from guidance_jax.core import Refused
from guidance_jax.datasets.image_files import ImageFiles, read_ahead
from guidance_jax.datasets.images import Images
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.files import interruptible
from guidance_jax.progress import Bar
from guidance_jax.sharding import place


class State(NamedTuple):
    """The training state: everything that a resumed run needs."""

    step: Any
    params: Any
    ema: Any
    optimizer: Any


def as_argument(loss: Callable) -> Any:
    """Make a loss an argument of a compiled function: a pytree with its arrays (a teacher's), or a static one."""
    return jax.tree_util.Partial(loss) if jax.tree_util.all_leaves([loss]) else loss


@partial(jax.jit, static_argnames="optimizer", donate_argnums=0)
def _step(state: State, key: Any, samples: Any, labels: Any, decay: Any, loss: Any, optimizer: Any) -> tuple:
    keys = jax.random.split(jax.random.fold_in(key, state.step), len(labels))

    def mean_loss(params):
        return jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0, 0))(params, keys, samples, labels))

    value, gradient = jax.value_and_grad(mean_loss)(state.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # the decay starts low, so that the average soon forgets the first parameters, as in TensorFlow and EDM
    rate = 1 - jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    ema = optax.incremental_update(params, state.ema, rate)
    return State(state.step + 1, params, ema, optimizer_state), value


def batches(size: int, batch: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Yield the indices of each batch from step `start` on; `seed` and the epoch determine each epoch's permutation."""
    per_epoch = size // batch
    step = start
    while True:
        epoch, i = divmod(step, per_epoch)
        if i == 0 or step == start:
            order = np.random.default_rng((seed, epoch)).permutation(size)
        yield order[i * batch : (i + 1) * batch]
        step += 1


def index_batches(data: Images | Sequences, batch: int, seed: int, start: int) -> Iterator[tuple[Any, Any]]:
    """Return (samples, labels) of each batch from step `start` on, in each process its own part of the batch."""
    own = own_indices(batches(len(data), batch, seed, start))
    if isinstance(data.samples, ImageFiles):
        return read_ahead(data.samples, data.labels, own)
    return ((data.samples[index], data.labels[index]) for index in own)


def own_indices(indices: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the part of each batch of indices that belongs to this process: equal parts, in the order of processes."""
    for index in indices:
        yield index.reshape(jax.process_count(), -1)[jax.process_index()]


def stream_batches(data: Iterable, start: int) -> Iterator[tuple[Any, Any]]:
    """Yield the batches of an iterable from step `start` on; earlier ones are read and dropped."""
    for i, (samples, labels) in enumerate(data):
        if i >= start:
            yield np.asarray(samples), np.asarray(labels)


def mirrored(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mirror each image left to right with probability 1/2: a function for `fit(..., augment=mirrored)`.

    Args:
      samples: the images of a batch, (n, H, W, C).
      generator: the random generator of this step.
    """
    return np.where(generator.random(len(samples))[:, None, None, None] < 0.5, samples, samples[:, :, ::-1])


def fit(
    loss: Callable[..., Any],
    params: Any,
    data: Images | Sequences | Iterable,
    *,
    steps: int,
    batch: int = 128,
    optimizer: optax.GradientTransformation,
    ema: float = 0.999,
    seed: int = 0,
    run: Run | None = None,
    save_every: int = 500,
    progress: str | None = None,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    mesh: Mesh | None = None,
    watch: Callable[[int, Any, list], None] | None = None,
) -> tuple[Any, np.ndarray]:
    """Minimise the mean of `loss(params, key, x0, label)` over the data; return (EMA parameters, loss per step).

    Everything random depends only on `seed` and the step. A run that is killed and started again with the same `run`
    therefore ends with the same parameters as an uninterrupted one; on CPU, bit for bit.

    Args:
      loss: a loss for one sample, such as `Denoising`. It is hashable, or a pytree, such as `Distillation`.
      params: the initial parameters, of any network.
      data: labelled images or sequences, whose arrays may be memory-mapped. For data of any size, an iterable of
        batches (samples, labels), such as a `grain` loader or `tf.data`; a resumed run skips the batches it has seen.
      steps: the number of optimizer steps in all, with those that `run` has done.
      batch: samples per step. Iterables make their own batches and ignore it.
      optimizer: any optax transformation; optax has gradient clipping, schedules and accumulation.
      ema: the decay of the moving average of the parameters, which is returned.
      seed: the seed of everything random.
      run: the directory where checkpoints are saved; None saves none. `batch`, `ema`, `seed` and the name of
        `augment` become part of its configuration, and it refuses to continue with other values. The settings inside
        `optimizer` and `loss` are not recorded: write them into the configuration, for example config(..., rate=1e-3).
      save_every: steps between checkpoints, and between calls of `watch`.
      progress: the title of a progress bar on standard error; None for no bar.
      augment: augment(samples, generator) -> samples, called on the host; `generator` depends on seed and step.
        None changes no sample.
      mesh: the devices over which every batch is split, `sample_mesh()` for those of all processes; None for the
        default device. Several processes call `fit` with the same arguments. Each reads its own part of every batch
        only. An iterable gives each process that part, and `generator` then depends on the process, too.
      watch: watch(step, EMA parameters, losses so far), called every `save_every` steps and at the end, for example to
        draw pictures or curves, in the first process; None for no calls.

    Raises:
      Refused: a batch larger than the data, or one that the devices do not divide; data that end too early; fewer
        steps than `run` has done; a loss, weights or an optimizer's state that are not finite, which are never saved;
        or whatever `run` refuses, such as another training in its directory.
    """
    check_request(data, batch, steps, save_every, mesh)
    name = augment.__qualname__ if isinstance(augment, types.FunctionType) else type(augment).__name__
    given = dict(
        batch=batch if isinstance(data, Images | Sequences) else None,
        ema=float(ema),
        seed=int(seed),
        augment=None if augment is None else name,
    )
    params = jax.tree.map(jnp.array, params)  # copies: the step gives its buffers up
    state = State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.array, params), optimizer.init(params))
    sound = _finite(state)
    state = spread(state, mesh)
    losses: list[Any] = []
    with interruptible(), nullcontext() if run is None else run.alone(**given):
        if run is not None:
            state, saved = run.restore(state)
            losses = [*saved]
        first = int(state.step)
        if first > steps:
            raise Refused(f"the run has done {first} steps, got steps={steps}; write steps={first} or more")
        check_finite(first, losses, sound, state)
        key, stream = jax.random.key(seed), stream_of(data, batch, seed, first)
        with Bar(progress, steps, first, "loss") as advance:
            for step in range(first, steps):
                samples, labels = next_batch(stream, step, steps)
                if augment is not None:
                    own = () if jax.process_count() == 1 else (jax.process_index(),)
                    samples = augment(samples, np.random.default_rng((seed, step, *own)))
                if mesh is not None:
                    samples, labels = join_parts(samples, mesh), join_parts(labels, mesh)
                state, value = _step(state, key, samples, labels, ema, as_argument(loss), optimizer)
                losses.append(value)
                done = step + 1
                if done % 100 == 0 or done == steps:  # only here does the host wait for the device
                    advance(done, float(value))
                saves = (run is not None or watch is not None) and done % save_every == 0
                if saves or done == steps:
                    losses = [*map(float, losses)]
                    check_finite(done, losses, sound, state)
                    if run is not None:
                        run.save(done, state, losses)
                    if watch is not None and jax.process_index() == 0:
                        watch(done, here(state.ema), losses)
    return here(state.ema), np.asarray(losses, np.float64)


def here(tree: Any) -> Any:
    """Return arrays that every device holds as arrays of this process, with which it can compute alone."""
    return tree if jax.process_count() == 1 else jax.tree.map(lambda a: a.addressable_data(0), tree)


def check_request(data: Any, batch: int, steps: int, save_every: int, mesh: Mesh | None) -> None:
    """Raise unless the numbers that `fit` was given are valid and fit each other."""
    if steps < 1 or save_every < 1:
        raise Refused(f"training takes at least one step, and one between saves, got {steps} and {save_every}")
    if isinstance(data, Images | Sequences) and not 1 <= batch <= len(data):
        raise Refused(f"a batch takes 1 to {len(data)} samples, got batch={batch}; write batch={len(data)}")
    if mesh is not None and isinstance(data, Images | Sequences) and batch % mesh.size:
        raise Refused(
            f"{mesh.size} devices do not divide a batch of {batch}; write batch={batch // mesh.size * mesh.size}"
        )
    if jax.process_count() > 1 and (mesh is None or mesh.size != jax.device_count()):
        raise Refused("several processes train on all of their devices together; write mesh=sample_mesh()")


def check_finite(done: int, losses: list[Any], sound: list[bool], state: State) -> None:
    """Raise if a loss is not finite after `done` steps, or an array of `state` that was finite at first (`sound`)."""
    if not np.isfinite(losses).all():
        raise Refused(f"the loss was not finite at step {int(np.argmin(np.isfinite(losses)))}; lower the rate")
    if any(before and not now for before, now in zip(sound, _finite(state), strict=True)):
        raise Refused(
            f"the loss is finite, the weights, their average or the optimizer's state are not after step {done}: "
            "a gradient was not finite; lower the rate"
        )


def stream_of(data: Any, batch: int, seed: int, start: int) -> Iterator[tuple[Any, Any]]:
    """Return an iterator over the batches of any kind of data, from step `start` on."""
    if isinstance(data, Images | Sequences):
        return index_batches(data, batch, seed, start)
    return stream_batches(data, start)


def next_batch(stream: Iterator[tuple[Any, Any]], step: int, steps: int) -> tuple[Any, Any]:
    """Return the batch of one step.

    Raises:
      Refused: data that end before this step.
    """
    found = next(stream, None)
    if found is None:
        raise Refused(f"the data ended after {step} of {steps} steps; repeat them, or train for {step}")
    return found


def spread(tree: Any, mesh: Mesh | None) -> Any:
    """Copy the arrays to all devices of a mesh; without a mesh, change nothing."""
    return tree if mesh is None else place(tree, NamedSharding(mesh, PartitionSpec()))


def join_parts(own: Any, mesh: Mesh) -> jax.Array:
    """Make one array, split over a mesh along its first axis, of the parts (n, ...) that the processes hold."""
    sharding = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
    if len(own) % len(sharding.addressable_devices):
        raise Refused(
            f"{len(sharding.addressable_devices)} devices do not divide a batch of {len(own)}; give batches they divide"
        )
    return jax.make_array_from_process_local_data(sharding, np.asarray(own))


def _finite(tree: Any) -> list[bool]:
    """Return for each array of floating-point numbers whether all of them are finite."""
    leaves = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(a), jnp.inexact)]
    return [bool(a) for a in jax.device_get(_all_finite(leaves))]


@jax.jit
def _all_finite(leaves: list) -> list:
    return [jnp.all(jnp.isfinite(a)) for a in leaves]
