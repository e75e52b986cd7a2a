"""The training loop: optax steps on the host, resumable at any step, bit for bit."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from guidance_jax.checkpoints.store import Run
from guidance_jax.core import Refused
from guidance_jax.datasets.images import Images
from guidance_jax.datasets.sequences import Sequences
from guidance_jax.progress import Bar


class State(NamedTuple):
    """What training carries: everything a resumed run needs."""

    step: Any
    params: Any
    ema: Any
    optimizer: Any


@partial(jax.jit, static_argnames=("loss", "optimizer"), donate_argnums=0)
def _step(state: State, key: Any, samples: Any, labels: Any, decay: Any, loss: Any, optimizer: Any) -> tuple:
    keys = jax.random.split(jax.random.fold_in(key, state.step), len(labels))

    def mean_loss(params):
        return jnp.mean(jax.vmap(loss, in_axes=(None, 0, 0, 0))(params, keys, samples, labels))

    value, gradient = jax.value_and_grad(mean_loss)(state.params)
    updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    # a young average forgets its first guesses faster, as in TensorFlow's and EDM's
    rate = 1 - jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    ema = optax.incremental_update(params, state.ema, rate)
    return State(state.step + 1, params, ema, optimizer_state), value


def batches(size: int, batch: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Indices of the batches from step `start` on; each epoch is a permutation that depends on seed and epoch alone."""
    per_epoch = size // batch
    step = start
    while True:
        epoch, i = divmod(step, per_epoch)
        if i == 0 or step == start:
            order = np.random.default_rng((seed, epoch)).permutation(size)
        yield order[i * batch : (i + 1) * batch]
        step += 1


def fit(
    loss: Callable[..., Any],
    params: Any,
    data: Images | Sequences,
    *,
    steps: int,
    batch: int = 128,
    optimizer: optax.GradientTransformation,
    ema: float = 0.999,
    seed: int = 0,
    run: Run | None = None,
    save_every: int = 500,
    progress: str | None = None,
) -> tuple[Any, np.ndarray]:
    """Minimise the mean of `loss(params, key, x0, label)` over the data; return (EMA parameters, loss per step).

    Everything random depends on `seed` and the step alone, so a run that is killed and started again with the same
    `run` ends with the same parameters as an uninterrupted one; on CPU, bit for bit.

    Args:
      loss: a loss for one sample, such as `Denoising`; hashable.
      params: the initial parameters.
      data: labelled images or sequences.
      steps, batch, optimizer, ema, seed: the usual; `optimizer` is any optax transformation.
      run: where to keep checkpoints; None keeps none.
      save_every: steps between checkpoints.
      progress: the title of a progress bar on standard error; None for none.

    Raises:
      Refused: a batch larger than the data, a loss that is not finite, or whatever `run` refuses.
    """
    if not 1 <= batch <= len(data):
        raise Refused(f"a batch takes 1 to {len(data)} samples, got batch={batch}; write batch={len(data)}")
    params = jax.tree.map(jnp.array, params)  # copies: the step gives its buffers up
    state = State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.array, params), optimizer.init(params))
    losses: list[Any] = []
    if run is not None:
        state, saved = run.restore(state)
        losses = [*saved]
    first = int(state.step)
    key = jax.random.key(seed)
    order = batches(len(data), batch, seed, first)
    with Bar(progress, steps, first, "loss") as advance:
        for step in range(first, steps):
            index = next(order)
            state, value = _step(state, key, data.samples[index], data.labels[index], ema, loss, optimizer)
            losses.append(value)
            done = step + 1
            if done % 100 == 0 or done == steps:  # the host waits for the device here only
                advance(done, float(value))
            if run is not None and (done % save_every == 0 or done == steps):
                losses = [*map(float, losses)]
                if not np.isfinite(losses).all():
                    raise Refused(
                        f"the loss was not finite at step {int(np.argmin(np.isfinite(losses)))}; lower the rate"
                    )
                run.save(done, state, losses)
    values = np.asarray(losses, np.float64)
    if not np.isfinite(values).all():
        raise Refused(f"the loss was not finite at step {int(np.argmin(np.isfinite(values)))}; lower the rate")
    return state.ema, values
