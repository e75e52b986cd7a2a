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
    """The exact model of tokens from p(x) on all V^L sequences and p(y | x) of each. For small V^L.

    It is exact at every level of its process. As a denoiser it takes a label; the label `num_classes`, or None, means
    the unconditional model. Samples of text are (L + 1,): a first token, then the L enumerated ones.

    Attributes:
      p: the joint distribution, (V, ..., V) with L axes.
      classes: p(y | x) of each sequence, (V^L, num_classes), in the order of `sequences`; rows sum to one.
      process: the space: `Absorbing(V)`, `Uniform(V)` or `LeftToRight(V)`.

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
        """All sequences, (V^L, L). The last token changes fastest."""
        return np.asarray(list(itertools.product(range(self.process.vocabulary), repeat=self.p.ndim)), np.int32)

    @property
    def space(self):
        return self.process

    @property
    def given(self) -> int:
        """The number of tokens before the enumerated ones: 1 for text, else 0."""
        return int(isinstance(self.process, LeftToRight))

    def check(self, levels, shape, cond):
        self.space.check(levels, shape)
        if tuple(shape) != (self.p.ndim + self.given,):
            raise Refused(f"the joint distribution has {self.p.ndim} tokens, got shape {tuple(shape)}")
        if cond is not None and concrete(cond):
            values = np.asarray(cond)
            bad = (values < 0) | (values > self.num_classes)
            if bad.any():
                raise Refused(
                    f"labels go from 0 to {self.num_classes - 1} (or {self.num_classes}, unconditional), got "
                    f"{values[bad].flat[0]}; use one of those"
                )

    def _prior(self, label):
        """Return log p(x, label), (V^L,); log p(x) for None and the null label."""
        if label is None:
            return log(self.p.ravel())
        every = jnp.concatenate([self.classes, jnp.ones_like(self.classes[:, :1])], 1)
        return log(self.p.ravel() * read_entry(every.T, label))

    def _evidence(self, x, level):
        """Return log q(x_l | v_l) for all sequences v and positions l, (V^L, L). x: tokens or one-hot (L, states)."""
        if not isinstance(self.process, Diffusion):
            known = jnp.arange(self.p.ndim) < level.t
            return jnp.where(known & (self.sequences != x[self.given :]), -jnp.inf, 0.0)
        forward = self.process.forward(level)
        here = forward[:, x] if x.ndim == 1 else jnp.matmul(forward, x.T, precision="highest")  # (V, L)
        here = jnp.where(here > 0, jnp.log(jnp.maximum(here, 1e-37)), -jnp.inf)
        return here[self.sequences, jnp.arange(self.p.ndim)]

    def __call__(self, x, level, cond, state, key):
        evidence, prior = self._evidence(x, level), self._prior(cond)
        # the evidence of all other sites, by sums from both ends: subtracting a site from the total may be -inf + inf
        before = jnp.cumsum(jnp.pad(evidence[:, :-1], ((0, 0), (1, 0))), 1)
        after = jnp.cumsum(jnp.pad(evidence[:, :0:-1], ((0, 0), (1, 0))), 1)[:, ::-1]
        rows = []
        for site in range(self.p.ndim):
            joint = (prior + before[:, site] + after[:, site]).reshape(self.p.shape)
            rows.append(jax.nn.logsumexp(jnp.moveaxis(joint, site, 0).reshape(self.process.vocabulary, -1), 1))
        log_p = jax.nn.log_softmax(jnp.stack(rows))
        if self.given:  # only the next token
            log_p = log_p[jnp.asarray(level.t).astype(int)]
        return TokenPrediction(x, log_p, self.process), state

    def log_posterior(self, x: Array, level: Any, label: Any) -> Float[Array, ""]:
        """Return log p(label | x_t) in nats, the exact noisy classifier, for tokens (L,) or one-hot (L, states)."""
        evidence = jnp.sum(self._evidence(x, level), 1)
        return jax.nn.logsumexp(self._prior(label) + evidence) - jax.nn.logsumexp(self._prior(None) + evidence)

    def log_likelihood(self, x0: Int[Array, " L"], level: Any, label: Any) -> Float[Array, ""]:
        """Return log p(label | x0) of clean tokens."""
        x0, size = x0[self.given :], self.process.vocabulary
        index = jnp.sum(x0 * size ** jnp.arange(self.p.ndim - 1, -1, -1))
        return log(read_entry(self.classes[index], label))

    def target(self, label: int | None = None, scale: float = 1.0) -> np.ndarray:
        """Return p(x) p(label | x)^scale, normalised, (V^L,)."""
        p = np.asarray(self.p, np.float64).ravel()
        if label is not None:
            p = p * np.asarray(self.classes, np.float64)[:, label] ** scale
        return p / p.sum()

    def index(self, samples: Any) -> np.ndarray:
        """Return the row in `sequences` of every sample; -1 if it has a token outside the vocabulary (a mask)."""
        samples, size = np.asarray(samples)[..., self.given :], self.process.vocabulary
        valid = ((samples >= 0) & (samples < size)).all(-1)
        return np.where(valid, (samples * size ** np.arange(self.p.ndim - 1, -1, -1)).sum(-1), -1)

    def total_variation(self, samples: Any, target: np.ndarray, log_w: Any = None) -> float:
        """Return half the sum of |frequency - target| over all sequences, of samples (n, L) with weights exp(log_w)."""
        index = self.index(samples)
        w = np.ones(len(index)) if log_w is None else np.exp(np.asarray(log_w, np.float64) - np.max(log_w))
        count = np.bincount(index + 1, w, len(target) + 1) / w.sum()
        return float(0.5 * (np.abs(count[1:] - target).sum() + count[0]))


def monte_carlo_floor(target: np.ndarray, n: int, repeats: int = 20, seed: int = 0) -> float:
    """Return the largest total variation to `target` (K,) among `repeats` sets of n exact draws with `seed`."""
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(n, np.asarray(target, np.float64) / np.sum(target), repeats) / n
    return float(0.5 * np.abs(counts - target).sum(1).max())
