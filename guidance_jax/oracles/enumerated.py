"""An enumerated joint distribution: the exact model of tokens, its exact classifier, and its exact guided targets."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float, Int
from guidance_jax.core import Denoiser, Refused, concrete, log, pytree, read_entry, static
from guidance_jax.discrete.prediction import TokenPrediction
from guidance_jax.discrete.process import Diffusion, Process
from guidance_jax.text.sequence import LeftToRight


@pytree
class Enumerated(Denoiser):
    """p(x) on all V^L sequences and p(y | x) of each; with a process, exact at every level. For small V^L.

    As a denoiser it takes a label, and the label `num_classes` or None for the unconditional model. Text has its first
    token before the L that are enumerated, so its samples are (L + 1,).

    Attributes:
      p: (V, ..., V), L axes, the joint distribution.
      classes: (V^L, num_classes), p(y | x) of each sequence, last token fastest; rows sum to one.
      process: `Absorbing(V)`, `Uniform(V)` or `LeftToRight(V)`.

    Raises:
      Refused: sequences of another length, labels that it does not have.
    """

    p: Any
    classes: Any
    process: Process = static()

    @property
    def num_classes(self) -> int:
        return self.classes.shape[1]

    @property
    def sequences(self) -> np.ndarray:
        """All sequences, (V^L, L)."""
        return np.asarray(list(itertools.product(range(self.process.vocabulary), repeat=self.p.ndim)), np.int32)

    @property
    def space(self):
        return self.process

    @property
    def given(self) -> int:
        """How many tokens come before those that are enumerated."""
        return int(isinstance(self.process, LeftToRight))

    def check(self, levels, shape, cond):
        self.space.check(levels, shape)
        if tuple(shape) != (self.p.ndim + self.given,):
            raise Refused(f"the joint distribution is of {self.p.ndim} tokens, got shape {tuple(shape)}")
        if cond is not None and concrete(cond):
            values = np.asarray(cond)
            bad = (values < 0) | (values > self.num_classes)
            if bad.any():
                raise Refused(
                    f"labels go from 0 to {self.num_classes - 1} (or {self.num_classes}, unconditional), got "
                    f"{values[bad].flat[0]}; use one of those"
                )

    def _prior(self, label):
        """log p(x, label), (V^L,); log p(x) for None and the null label."""
        if label is None:
            return log(self.p.ravel())
        every = jnp.concatenate([self.classes, jnp.ones_like(self.classes[:, :1])], 1)
        return log(self.p.ravel() * read_entry(every.T, label))

    def _evidence(self, x, level):
        """log q(x_l | v_l) for every sequence v and position, (V^L, L); x are tokens or one-hot vectors (L, states)."""
        if not isinstance(self.process, Diffusion):
            known = jnp.arange(self.p.ndim) < level.t
            return jnp.where(known & (self.sequences != x[self.given :]), -jnp.inf, 0.0)
        forward = self.process.forward(level)
        here = forward[:, x] if x.ndim == 1 else jnp.matmul(forward, x.T, precision="highest")  # (V, L)
        here = jnp.where(here > 0, jnp.log(jnp.maximum(here, 1e-37)), -jnp.inf)
        return here[self.sequences, jnp.arange(self.p.ndim)]

    def __call__(self, x, level, cond, state, key):
        evidence, prior = self._evidence(x, level), self._prior(cond)
        # what the other sites say, by sums from both ends: taking a site from the whole would be -inf + inf
        before = jnp.cumsum(jnp.pad(evidence[:, :-1], ((0, 0), (1, 0))), 1)
        after = jnp.cumsum(jnp.pad(evidence[:, :0:-1], ((0, 0), (1, 0))), 1)[:, ::-1]
        rows = []
        for site in range(self.p.ndim):
            joint = (prior + before[:, site] + after[:, site]).reshape(self.p.shape)
            rows.append(jax.nn.logsumexp(jnp.moveaxis(joint, site, 0).reshape(self.process.vocabulary, -1), 1))
        log_p = jax.nn.log_softmax(jnp.stack(rows))
        if self.given:  # the next token alone
            log_p = log_p[jnp.asarray(level.t).astype(int)]
        return TokenPrediction(x, log_p, self.process), state

    def log_posterior(self, x: Array, level: Any, label: Any) -> Float[Array, ""]:
        """log p(label | x_t) in nats: the exact noisy classifier, of tokens (L,) or one-hot vectors (L, states)."""
        evidence = jnp.sum(self._evidence(x, level), 1)
        return jax.nn.logsumexp(self._prior(label) + evidence) - jax.nn.logsumexp(self._prior(None) + evidence)

    def log_likelihood(self, x0: Int[Array, " L"], level: Any, label: Any) -> Float[Array, ""]:
        """log p(label | x0) of clean tokens."""
        x0, size = x0[self.given :], self.process.vocabulary
        index = jnp.sum(x0 * size ** jnp.arange(self.p.ndim - 1, -1, -1))
        return log(read_entry(self.classes[index], label))

    def target(self, label: int | None = None, scale: float = 1.0) -> np.ndarray:
        """p(x) p(label | x)^scale, normalised, (V^L,)."""
        p = np.asarray(self.p, np.float64).ravel()
        if label is not None:
            p = p * np.asarray(self.classes, np.float64)[:, label] ** scale
        return p / p.sum()

    def index(self, samples: Any) -> np.ndarray:
        """The row in `sequences` of every sample; -1 for those with a token that is none, a mask for example."""
        samples, size = np.asarray(samples)[..., self.given :], self.process.vocabulary
        valid = ((samples >= 0) & (samples < size)).all(-1)
        return np.where(valid, (samples * size ** np.arange(self.p.ndim - 1, -1, -1)).sum(-1), -1)

    def total_variation(self, samples: Any, target: np.ndarray, log_w: Any = None) -> float:
        """Half the sum of |frequency - target| over all sequences, (n, L) samples with optional log-weights."""
        index = self.index(samples)
        w = np.ones(len(index)) if log_w is None else np.exp(np.asarray(log_w, np.float64) - np.max(log_w))
        count = np.bincount(index + 1, w, len(target) + 1) / w.sum()
        return float(0.5 * (np.abs(count[1:] - target).sum() + count[0]))


def monte_carlo_floor(target: np.ndarray, n: int, repeats: int = 20, seed: int = 0) -> float:
    """The largest total variation to `target` (K,) that `repeats` sets of n exact draws show, by `seed`."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n, np.asarray(target, np.float64) / np.sum(target), repeats) / n
    return float(0.5 * np.abs(counts - target).sum(1).max())
