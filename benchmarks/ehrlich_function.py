"""Ehrlich functions (Stanton et al. 2024, arXiv 2407.00236, section 4): a black box on tokens with a known optimum.

    f(x) = prod_i max_l q( share of motif i present at l + spacing_i ),   -inf if x has a forbidden transition

Feasibility, epistasis between motif elements and long spacings make it as hard as protein design, at no cost.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused, pytree, static


@pytree
class Ehrlich:
    """A function of one sequence (L,) of tokens: 1 at the optimum, multiples of 1 / quantization^motifs below, -inf if
    infeasible.

    Attributes:
      allowed: (V, V) booleans, which token may follow which.
      motifs: (c, k) tokens.
      spacings: (c, k), offsets of the motifs' elements, rising from 0.
      length: of the sequences.
      quantization: in how many steps a motif's presence counts.

    Raises:
      Refused: of `random`, motifs that do not fit into the vocabulary or the length.
    """

    allowed: Any
    motifs: Any
    spacings: Any
    length: int = static()
    quantization: int = static()

    @classmethod
    def random(
        cls, seed: int, vocabulary: int = 32, length: int = 32, motifs: int = 4, size: int = 4, forbidden: float = 0.2
    ) -> "Ehrlich":
        """A random function whose optimum exists: the motifs are one feasible path of different tokens, cut in pieces.

        Raises:
          Refused: motifs that do not fit into the vocabulary or the length.
        """
        if motifs * size > min(vocabulary, length):
            raise Refused(
                f"{motifs} motifs of {size} different tokens need a vocabulary and a length of {motifs * size}, got "
                f"{vocabulary} and {length}"
            )
        generator = np.random.default_rng(seed)
        path = generator.permutation(vocabulary)
        allowed = generator.random((vocabulary, vocabulary)) >= forbidden
        np.fill_diagonal(allowed, True)
        allowed[path, np.roll(path, -1)] = True  # a cycle through all tokens: nothing is a dead end
        room = length // motifs
        spacings = [
            np.r_[0, np.sort(generator.choice(np.arange(1, room), size - 1, replace=False))] for _ in range(motifs)
        ]
        elements = path[: motifs * size].reshape(motifs, size)
        return cls(jnp.asarray(allowed), jnp.asarray(elements), jnp.asarray(np.stack(spacings)), length, size)

    def feasible(self, x: Any) -> Any:
        """Whether no transition of x (L,) is forbidden."""
        return jnp.all(self.allowed[x[:-1], x[1:]])

    def __call__(self, x: Any) -> Any:
        start = jnp.arange(self.length)[:, None, None]
        at = start + self.spacings  # (L, c, k)
        present = (x[jnp.minimum(at, self.length - 1)] == self.motifs) & (at < self.length)
        inside = at[..., -1] < self.length
        share = jnp.where(inside, jnp.sum(present, -1), 0) / self.motifs.shape[1]
        best = jnp.max(jnp.floor(share * self.quantization + 1e-6) / self.quantization, 0)
        return jnp.where(self.feasible(x), jnp.prod(best), -jnp.inf)

    def optimum(self) -> np.ndarray:
        """A sequence of value 1: every element repeated until the next one is due."""
        room, size = self.length // len(self.motifs), self.motifs.shape[1]
        x = []
        for motif, spacing in zip(np.asarray(self.motifs), np.asarray(self.spacings), strict=True):
            ends = np.r_[spacing[1:], room]
            x += [motif[i] for i in range(size) for _ in range(ends[i] - spacing[i])]
        return np.asarray(x + [x[-1]] * (self.length - len(x)), np.int32)

    def start(self, key: Any, n: int) -> Any:
        """`n` feasible sequences (n, L): random walks on what is allowed."""

        def one(key):
            first, rest = jax.random.split(key)
            begin = jax.random.randint(first, (), 0, len(self.allowed), jnp.int32)

            def step(token, key):
                after = jax.random.categorical(key, jnp.where(self.allowed[token], 0.0, -jnp.inf)).astype(jnp.int32)
                return after, after

            _, rest = jax.lax.scan(step, begin, jax.random.split(rest, self.length - 1))
            return jnp.concatenate([begin[None], rest])

        return jax.vmap(one)(jax.random.split(key, n))
