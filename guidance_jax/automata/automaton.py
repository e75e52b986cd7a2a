"""Finite automata over tokens: the exact probability of a rule for independent tokens, and draws and modes within it.

    f_0 = e_start,  f_l = f_{l-1} T_l,    b_L = accepting,  b_{l-1} = T_l b_l,    T_l(q, q') = sum of p_l(v), q -v-> q'
    P(accept) = f_l . b_l  for every l,    P(accept | x_l = v) / P(accept) = sum_q f_{l-1}(q) b_l(q after v) / P(accept)

One forward and one backward pass give all L V ratios, in O(L Q C) operations. Q is the number of states. C is the
number of classes of tokens that lead to the same states.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guidance_jax._typing import Array, Float, Int
from guidance_jax.core import FAILED, Refused, argmax_token, concrete, draw_token, log, pytree, static


@pytree
class Automaton:
    """A deterministic finite automaton over the tokens of a vocabulary: a rule that sequences follow or break.

    Make one with `from_pattern` or `count`, and combine them: `a & b`, `a | b`, `~a`.

    Attributes:
      classes: (V,) integers, the class of every token; tokens of one class lead to the same state from every state.
      after: (Q, C) integers, the state after a token of a class.
      accepting: (Q,) booleans, True for states in which a sequence may end.
      start: the state before the first token.
      begin: the number of tokens at the beginning to which the rule does not apply, such as those of a prompt.

    >>> rule = Automaton.from_pattern("a+b?", ["a", "b"])
    >>> [bool(rule.accepts(jnp.array(x))) for x in ([0, 0, 1], [0, 1, 0])]
    [True, False]
    """

    classes: Any
    after: Any
    accepting: Any
    start: Any = 0
    begin: int = static(default=0)

    @property
    def vocabulary(self) -> int:
        """Return the number of tokens in the vocabulary."""
        return len(self.classes)

    @property
    def states(self) -> int:
        """Return the number of states."""
        return len(self.accepting)

    @classmethod
    def from_table(cls, table: Any, accepting: Any, start: int = 0) -> "Automaton":
        """Return the smallest automaton that accepts the same sequences as a table of states.

        Args:
          table: (Q, V) integers, the state after each token.
          accepting: (Q,) booleans, True for states in which a sequence may end.
          start: the state before the first token.

        Raises:
          Refused: a table of another shape, or with entries that are not 0 to Q - 1.
        """
        table, accepting = np.asarray(table), np.asarray(accepting, bool)
        if table.ndim != 2 or table.shape[0] != len(accepting) or table.min() < 0 or table.max() >= len(table):
            raise Refused(
                f"the table of an automaton must have shape (Q, V) and hold states below Q, got shape {table.shape}"
            )
        columns, classes = np.unique(table, axis=1, return_inverse=True)
        return smallest(classes.reshape(-1), columns, accepting, start)

    @classmethod
    def from_pattern(cls, pattern: str, tokens: Sequence[str | None], end: int | None = None) -> "Automaton":
        """Return the automaton of the sequences whose whole text matches a regular expression.

        Args:
          pattern: in the syntax of Python's `re`, without look-around, references and boundaries.
          tokens: the text of every token, in order; None or "" for tokens that may not occur.
          end: the token that ends a text: it may follow a match, and only itself may follow it. None for no such token.

        Raises:
          Refused: a pattern with a syntax error, or with features that no finite automaton has; one that is too large;
            an `end` outside the tokens.

        >>> Automaton.from_pattern(r"[01]{2}", list("012")).states
        4
        """
        from guidance_jax.automata.pattern import compile_pattern

        return compile_pattern(pattern, tokens, end)

    @classmethod
    def count(cls, counted: Any, least: int, most: int | None, vocabulary: int) -> "Automaton":
        """Return the automaton of the sequences in which `least` to `most` tokens are in `counted`.

        Args:
          counted: a token, or several tokens that are counted together.
          least: the smallest number allowed, at least 0.
          most: the largest number allowed; None for no upper bound.
          vocabulary: the number of tokens in the vocabulary.

        Raises:
          Refused: bounds that no sequence meets; tokens outside the vocabulary.

        >>> bool(Automaton.count(1, 2, 2, vocabulary=3).accepts(jnp.array([1, 0, 1])))
        True
        """
        found = np.atleast_1d(np.asarray(counted))
        if least < 0 or (most is not None and most < least) or (found < 0).any() or (found >= vocabulary).any():
            raise Refused(
                f"count from {least} to {most} of {found.tolist()} among {vocabulary} tokens: no sequence can follow "
                f"this rule; use 0 <= least <= most and tokens from 0 to {vocabulary - 1}"
            )
        last = least if most is None else most + 1
        table = np.repeat(np.arange(last + 1)[:, None], vocabulary, 1)
        table[:, found] = np.minimum(table[:, found] + 1, last)
        number = np.arange(last + 1)
        return cls.from_table(table, (number >= least) & (number <= last if most is None else number <= most))

    def _with(self, other: "Automaton", rule: Any) -> "Automaton":
        if (self.vocabulary, self.begin) != (other.vocabulary, other.begin):
            raise Refused(
                f"two automata combine only with equal vocabulary and `begin`, got {self.vocabulary} and "
                f"{other.vocabulary} tokens, begin {self.begin} and {other.begin}"
            )
        pairs, classes = np.unique(np.stack([self.classes, other.classes]), axis=1, return_inverse=True)
        size = other.states
        after = np.asarray(self.after)[:, None, pairs[0]] * size + np.asarray(other.after)[None, :, pairs[1]]
        accepting = rule(np.asarray(self.accepting)[:, None], np.asarray(other.accepting)[None])
        start = int(self.start) * size + int(other.start)
        found = smallest(classes.reshape(-1), after.reshape(-1, pairs.shape[1]), accepting.reshape(-1), start)
        return found.behind(self.begin)

    def __and__(self, other: "Automaton") -> "Automaton":
        return self._with(other, np.logical_and)

    def __or__(self, other: "Automaton") -> "Automaton":
        return self._with(other, np.logical_or)

    def __invert__(self) -> "Automaton":
        return Automaton(self.classes, self.after, ~np.asarray(self.accepting), self.start, self.begin)

    def behind(self, begin: int) -> "Automaton":
        """Return the automaton that applies the rule only after the first `begin` tokens."""
        return dataclasses.replace(self, begin=begin)

    def check(self, vocabulary: int, length: int) -> None:
        """Raise `Refused` unless the automaton has that vocabulary and accepts a sequence of `length` tokens."""
        if self.vocabulary != vocabulary:
            raise Refused(
                f"the automaton has {self.vocabulary} tokens, the model {vocabulary}; compile it again for the "
                "vocabulary of the model"
            )
        if not all(concrete(a) for a in (self.after, self.accepting, self.start)):
            return
        can, lengths, length = np.asarray(self.accepting), [], length - self.begin
        for size in range(length + 1):
            if can[int(self.start)]:
                lengths.append(size)
            can = can[np.asarray(self.after)].any(1)
        if length not in lengths:
            near = f"the longest has {lengths[-1]}" if lengths else "all are longer"
            raise Refused(
                f"no sequence of {length} tokens follows the rule: {near}; change the length, or compile it with end="
            )

    def accepts(self, x: Int[Array, " L"]) -> Any:
        """Return whether a sequence follows the rule; False if a token is outside the vocabulary."""
        x = x[self.begin :]
        known = jnp.all((x >= 0) & (x < self.vocabulary))
        kinds = jnp.asarray(self.classes)[jnp.clip(x, 0, self.vocabulary - 1)]
        after = jnp.asarray(self.after)
        last, _ = jax.lax.scan(lambda q, kind: (after[q, kind], None), jnp.asarray(self.start), kinds)
        return known & jnp.asarray(self.accepting)[last]

    def class_log_p(self, log_p: Any) -> Any:
        """Return the log-probability of each class, (L, C), under log p (L, V)."""
        kinds = jnp.asarray(self.after).shape[1]
        return jax.vmap(lambda row: log_sums_at(row, jnp.asarray(self.classes), kinds))(log_p)

    def futures(self, class_log_p: Float[Array, "L C"]) -> tuple[Float[Array, "L1 Q"], Float[Array, " L1"]]:
        """Return log b_0 to log b_L, each with maximum 0, and for each the constant to add.

        b_l is the vector of the formula above, for all Q states, and L1 is L + 1.
        """
        after = jnp.asarray(self.after)
        last = jnp.where(jnp.asarray(self.accepting), 0.0, -jnp.inf).astype(class_log_p.dtype)

        def back(carry, p):
            b, total = carry
            b, size = level_out(log_sum(p + b[after], 1))
            return (b, total + size), (b, total + size)

        first = last, jnp.zeros((), class_log_p.dtype)
        _, (b, total) = jax.lax.scan(back, first, class_log_p, reverse=True)
        return jnp.concatenate([b, last[None]]), jnp.append(total, 0)

    def log_probability(self, log_p: Float[Array, "L V"]) -> Float[Array, ""]:
        """Return log P(accept) for independent tokens with log-probabilities log p; -inf if no sequence is accepted.

        >>> float(jnp.exp(Automaton.count(1, 1, 1, 2).log_probability(jnp.log(jnp.full((2, 2), 0.5)))))
        0.5
        """
        b, total = self.futures(self.class_log_p(log_p[self.begin :]))
        return b[0, jnp.asarray(self.start)] + total[0]

    def log_ratios(self, log_p: Float[Array, "L V"]) -> Float[Array, "L V"]:
        """Return log P(accept | x_l = v) - log P(accept), for all positions and tokens; NaN if P(accept) is 0."""
        free, log_p = jnp.zeros_like(log_p[: self.begin]), log_p[self.begin :]
        after, p = jnp.asarray(self.after), self.class_log_p(log_p)
        b, _ = self.futures(p)

        def forward(f, inputs):
            p, b = inputs
            each = log_sum(f[:, None] + b[after], 0)  # (C,)
            f = log_sums_at((f[:, None] + p).ravel(), after.ravel(), self.states)
            alive = jnp.where(b > -jnp.inf, f, -jnp.inf)  # leave out states that can no longer be accepted
            return level_out(alive)[0], each

        start = jnp.where(jnp.arange(self.states) == self.start, 0.0, -jnp.inf).astype(log_p.dtype)
        _, each = jax.lax.scan(forward, start, (p, b[1:]))
        whole = log_sum(p + each, 1)[:, None]
        ratios = each - jnp.where(whole > -jnp.inf, whole, jnp.nan)
        return jnp.concatenate([free, ratios[:, jnp.asarray(self.classes)]])

    def draw(self, log_p: Float[Array, "L V"], key: Any) -> Int[Array, " L"]:
        """Draw a sequence from the product of p_l, given that it follows the rule; all `FAILED` if none does.

        Args:
          log_p: (L, V), log-probabilities of independent tokens.
          key: a random key.
        """
        free_key, draw_key = jax.random.split(key)
        free, log_p = draw_token(free_key, log_p[: self.begin]), log_p[self.begin :]
        b, _ = self.futures(self.class_log_p(log_p))
        classes, after = jnp.asarray(self.classes), jnp.asarray(self.after)

        def step(q, inputs):
            row, b, key = inputs
            token = draw_token(key, row + b[after[q]][classes])
            return after[q, classes[jnp.maximum(token, 0)]], token

        keys = jax.random.split(draw_key, len(log_p))
        _, x = jax.lax.scan(step, jnp.asarray(self.start), (log_p, b[1:], keys))
        x = jnp.concatenate([free, x])
        return jnp.where(jnp.any(x == FAILED), FAILED, x)

    def mode(self, log_p: Float[Array, "L V"]) -> Int[Array, " L"]:
        """Return the most probable sequence that follows the rule; all `FAILED` if none does.

        Args:
          log_p: (L, V), log-probabilities of independent tokens.
        """
        free, log_p = argmax_token(log_p[: self.begin]), log_p[self.begin :]
        classes, after = jnp.asarray(self.classes), jnp.asarray(self.after)
        last = jnp.where(jnp.asarray(self.accepting), 0.0, -jnp.inf).astype(log_p.dtype)

        def back(m, row):
            best = jnp.full(after.shape[1], -jnp.inf, log_p.dtype).at[classes].max(row)
            return jnp.max(best + m[after], 1), m

        _, m = jax.lax.scan(back, last, log_p, reverse=True)

        def step(q, inputs):
            row, m = inputs
            score = row + m[after[q]][classes]
            token = jnp.where(jnp.max(score) > -jnp.inf, jnp.argmax(score), FAILED)
            return after[q, classes[jnp.maximum(token, 0)]], token.astype(jnp.int32)

        _, x = jax.lax.scan(step, jnp.asarray(self.start), (log_p, m))
        x = jnp.concatenate([free, x])
        return jnp.where(jnp.any(x == FAILED), FAILED, x)


def log_sum(a: Any, axis: int) -> Any:
    """Return the log of the sum of exp(a) over an axis; -inf, with derivative 0, where all are -inf."""
    most = jax.lax.stop_gradient(jnp.max(a, axis, keepdims=True))
    most = jnp.where(most == -jnp.inf, 0, most)
    return log(jnp.sum(jnp.exp(a - most), axis)) + jnp.squeeze(most, axis)


def log_sums_at(a: Any, places: Any, size: int) -> Any:
    """Return the log of the sum of exp(a) for each of `size` places, over the entries of a that belong to it."""
    most = jax.lax.stop_gradient(jnp.full(size, -jnp.inf, a.dtype).at[places].max(a))
    most = jnp.where(most == -jnp.inf, 0, most)
    return log(jnp.zeros(size, a.dtype).at[places].add(jnp.exp(a - most[places]))) + most


def level_out(a: Any) -> tuple[Any, Any]:
    """Return (a minus its largest entry, that entry); the entry counts as 0 if all are -inf."""
    most = jax.lax.stop_gradient(jnp.max(a))
    most = jnp.where(most == -jnp.inf, 0, most)
    return a - most, most


def smallest(classes: np.ndarray, after: np.ndarray, accepting: np.ndarray, start: int) -> Automaton:
    """Return the automaton with the fewest states and classes, by reachability and Moore's refinement of partitions."""
    seen, todo = {start: 0}, [start]
    for state in todo:
        for following in np.unique(after[state]):
            if int(following) not in seen:
                seen[int(following)] = len(seen)
                todo.append(int(following))
    number = np.zeros(len(after), int)
    number[todo] = np.arange(len(todo))
    after, accepting = number[after[todo]], accepting[todo]
    block, count = accepting.astype(int), 0
    while True:
        _, block = np.unique(np.column_stack([block, block[after]]), axis=0, return_inverse=True)
        block = block.reshape(-1)
        if block.max() == count:
            break
        count = block.max()
    _, first = np.unique(block, return_index=True)
    table, kinds = np.unique(block[after[first]], axis=1, return_inverse=True)
    return Automaton(
        kinds.reshape(-1)[classes].astype(np.int32), table.astype(np.int32), accepting[first], np.int32(block[0])
    )
