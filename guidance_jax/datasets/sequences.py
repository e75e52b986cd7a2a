"""Labelled token sequences, the result of every reader of sequences."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from guidance_jax.core import Refused

AMINO_ACIDS = tuple("ACDEFGHIKLMNPQRSTVWY")


@dataclass(frozen=True)
class Sequences:
    """Hold labelled sequences of one length.

    Attributes:
      tokens: (n, length), int32, indices into `alphabet`.
      labels: (n,), int32, 0 to len(names) - 1.
      names: one name per class.
      alphabet: one string per token.
      values: (n,) float32, a measured number for each sequence; None without measurements.

    Raises:
      Refused: shapes that do not fit each other, no sequences, tokens outside the alphabet, labels without a name.
    """

    tokens: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    alphabet: tuple[str, ...]
    values: np.ndarray | None = None

    def __post_init__(self):
        if self.tokens.ndim != 2 or self.labels.shape != self.tokens.shape[:1] or len(self.tokens) == 0:
            raise Refused(
                f"sequences must be (n, length) with one label each, got {self.tokens.shape} and {self.labels.shape}"
            )
        if self.tokens.min() < 0 or self.tokens.max() >= len(self.alphabet):
            raise Refused(
                f"tokens go from 0 to {len(self.alphabet) - 1}, got {self.tokens.min()} to {self.tokens.max()}"
            )
        if self.labels.min() < 0 or self.labels.max() >= len(self.names):
            raise Refused(f"labels go from 0 to {len(self.names) - 1}, got {self.labels.min()} to {self.labels.max()}")

    def __len__(self):
        return len(self.tokens)

    @property
    def samples(self) -> np.ndarray:
        """The tokens, under the name that `fit` reads."""
        return self.tokens

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sequence."""
        return self.tokens.shape[1:]

    def take(self, index: np.ndarray) -> "Sequences":
        """Return the sequences at `index`, with their labels and values."""
        values = None if self.values is None else self.values[index]
        return replace(self, tokens=self.tokens[index], labels=self.labels[index], values=values)

    def split(self, held_out: float = 0.2, seed: int = 0) -> tuple["Sequences", "Sequences"]:
        """Return (train, held out), drawn by `seed`; equal sequences go to the same part.

        `held_out` is the probability that a distinct sequence is held out.
        """
        _, group = np.unique(self.tokens, axis=0, return_inverse=True)
        chosen = np.random.default_rng(seed).random(group.max() + 1) < held_out
        mask = chosen[group.reshape(-1)]
        return self.take(np.flatnonzero(~mask)), self.take(np.flatnonzero(mask))


def encode(strings: list[str], alphabet: tuple[str, ...]) -> np.ndarray:
    """Convert strings to tokens, one per letter: an integer array (n, length).

    Args:
      strings: n strings of one length.
      alphabet: the letters, in the order of their tokens.
    """
    index = {symbol: i for i, symbol in enumerate(alphabet)}
    return np.asarray([[index[c] for c in s] for s in strings], np.int32)


def text(tokens: Any, alphabet: tuple[str, ...], joiner: str = "") -> str:
    """Convert one sequence to a string; a token outside the alphabet, such as a mask, becomes an underscore.

    Args:
      tokens: (L,), indices into `alphabet`.
      alphabet: the letters.
      joiner: the string between two letters.
    """
    return joiner.join(alphabet[t] if 0 <= t < len(alphabet) else "_" for t in np.asarray(tokens))
