"""Compile regular expressions to automata over tokens. Python's own `re` parses them, so the syntax means the same.

Thompson's construction and the subset construction give an automaton over characters. Then the text of every token runs
through that automaton.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from guidance_jax.automata.automaton import Automaton, smallest
from guidance_jax.core import Refused

STATES = 20_000  # the largest number of states of the automaton over characters
REPEATS = 1_000  # the largest number of repetitions of one part of a pattern


class Fragments:
    """A non-deterministic automaton under construction. An edge takes a character, and a free edge takes none."""

    def __init__(self):
        self.edges: list[list[tuple[Callable[[str], bool], int]]] = []
        self.free: list[list[int]] = []

    def state(self) -> int:
        if len(self.edges) >= STATES:
            raise Refused(f"the pattern needs more than {STATES:,} states; write a shorter one")
        self.edges.append([])
        self.free.append([])
        return len(self.edges) - 1

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """Return the states that are reached without a character."""
        found, todo = set(states), list(states)
        while todo:
            for following in self.free[todo.pop()]:
                if following not in found:
                    found.add(following)
                    todo.append(following)
        return frozenset(found)

    def add(self, items: Any, begin: int, flags: int, pattern: str) -> int:
        """Add a sequence of parsed items that starts at the state `begin`, and return the state after it."""
        for operation, value in items:
            begin = self.add_one(str(operation), value, begin, flags, pattern)
        return begin

    def add_one(self, operation: str, value: Any, begin: int, flags: int, pattern: str) -> int:
        if operation in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            end = self.state()
            self.edges[begin].append((predicate(operation, value, flags), end))
            return end
        if operation == "BRANCH":
            end = self.state()
            for branch in value[1]:
                inside = self.state()
                self.free[begin].append(inside)
                self.free[self.add(branch, inside, flags, pattern)].append(end)
            return end
        if operation == "SUBPATTERN":
            _, on, off, items = value
            return self.add(items, begin, (flags | on) & ~off, pattern)
        if operation in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, items = value
            endless = most == re._parser.MAXREPEAT  # type: ignore[attr-defined]
            if least > REPEATS or (not endless and most > REPEATS):
                raise Refused(f"a part of the pattern {pattern!r} repeats more than {REPEATS:,} times; write fewer")
            for _ in range(least):
                begin = self.add(items, begin, flags, pattern)
            end = self.state()
            if endless:
                inside = self.state()
                self.free[begin].append(inside)
                self.free[self.add(items, inside, flags, pattern)].append(inside)
                self.free[inside].append(end)
                return end
            for _ in range(most - least):
                self.free[begin].append(end)
                begin = self.add(items, begin, flags, pattern)
            self.free[begin].append(end)
            return end
        raise Refused(
            f"the pattern {pattern!r} has {operation.lower().replace('_', ' ')}, which a finite automaton cannot "
            "express; write it with characters, sets, groups, |, *, +, ? and {m,n}"
        )


def predicate(operation: str, value: Any, flags: int) -> Callable[[str], bool]:
    """Return the function that says whether one item of a pattern takes a character."""
    same = str.lower if flags & re.IGNORECASE else str
    if operation == "LITERAL":
        return lambda c: same(c) == same(chr(value))
    if operation == "NOT_LITERAL":
        return lambda c: same(c) != same(chr(value))
    if operation == "ANY":
        return lambda c: c != "\n" or bool(flags & re.DOTALL)
    one_of = [(str(kind), item) for kind, item in value]
    negated = bool(one_of) and one_of[0][0] == "NEGATE"

    def within(c: str) -> bool:
        for kind, item in one_of[negated:]:
            spellings = {c, c.lower(), c.upper()} if flags & re.IGNORECASE else {c}
            if kind == "LITERAL" and chr(item) in spellings:
                return True
            if kind == "RANGE" and any(len(s) == 1 and item[0] <= ord(s) <= item[1] for s in spellings):
                return True
            if kind == "CATEGORY" and CATEGORIES[str(item)](c, flags):
                return True
        return False

    return lambda c: within(c) != negated


def category(name: str) -> Callable[[str, int], bool]:
    """Return the function that says whether a character is in a class such as \\d, by Python's own `re`."""
    return lambda c, flags: re.fullmatch(name, c, flags & re.ASCII) is not None


CATEGORIES = {
    f"CATEGORY_{name}": category(text)
    for name, text in (
        *(("DIGIT", r"\d"), ("NOT_DIGIT", r"\D"), ("SPACE", r"\s"), ("NOT_SPACE", r"\S")),
        *(("WORD", r"\w"), ("NOT_WORD", r"\W")),
    )
}


def compile_pattern(pattern: str, tokens: Sequence[str | None], end: int | None = None) -> Automaton:
    """Return the automaton of a pattern over tokens; see `Automaton.from_pattern`."""
    try:
        parsed = re._parser.parse(pattern)  # type: ignore[attr-defined]
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(f"{pattern!r} is not a valid regular expression ({error}); correct it") from None
    texts = ["" if token is None or i == end else token for i, token in enumerate(tokens)]
    if end is not None and not 0 <= end < len(texts):
        raise Refused(f"the token that ends a text must be from 0 to {len(texts) - 1}, got end={end}")
    fragments = Fragments()
    begin = fragments.state()
    items = list(parsed)
    if items and str(items[0][0]) == "AT" and "BEGINNING" in str(items[0][1]):  # the whole text is matched in any case
        items = items[1:]
    if items and str(items[-1][0]) == "AT" and str(items[-1][1]) in ("AT_END", "AT_END_STRING"):
        items = items[:-1]
    final = fragments.add(items, begin, parsed.state.flags, pattern)
    letters = sorted(set("".join(texts)))
    table, accepting = subsets(fragments, begin, final, letters, pattern)
    # run the text of every token, letter by letter, from all states at once; state 0 takes no more letters
    index = {letter: i for i, letter in enumerate(letters)}
    longest = max(map(len, texts), default=0)
    codes = np.full((len(texts), longest), -1)
    for row, text in zip(codes, texts, strict=True):
        row[: len(text)] = [index[c] for c in text]
    state = np.repeat(np.arange(len(table))[:, None], len(texts), 1)
    for place in range(longest):
        has = codes[:, place] >= 0
        state[:, has] = table[state[:, has], codes[has, place]]
    state[:, codes[:, 0] < 0 if longest else slice(None)] = 0  # tokens without text
    if end is not None:
        ended = len(table)
        state = np.concatenate([state, np.zeros((1, len(texts)), int)])
        state[:ended, end] = np.where(accepting, ended, 0)
        state[ended, end] = ended
        accepting = np.append(accepting, True)
    columns, classes = np.unique(state, axis=1, return_inverse=True)
    return smallest(classes.reshape(-1), columns, accepting, 1)


def subsets(
    fragments: Fragments, begin: int, final: int, letters: Sequence[str], pattern: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (states after each letter (Q, letters), accepting (Q,)). State 0 takes no more, state 1 is the start."""
    taken: dict[Any, np.ndarray] = {}
    for edges in fragments.edges:
        for test, _ in edges:
            if test not in taken:
                taken[test] = np.array([test(c) for c in letters], bool)
    numbers: dict[frozenset[int], int] = {frozenset(): 0}
    order = [frozenset[int]()]
    first = fragments.closure([begin])
    numbers[first] = 1
    order.append(first)
    rows = [np.zeros(len(letters), int)]
    while len(rows) < len(order):
        subset = order[len(rows)]
        row = np.zeros(len(letters), int)
        arrows = [(taken[test], target) for state in subset for test, target in fragments.edges[state]]
        for i in range(len(letters)):
            targets = [target for hits, target in arrows if hits[i]]
            if targets:
                following = fragments.closure(targets)
                if following not in numbers:
                    if len(order) >= STATES:
                        raise Refused(f"the pattern {pattern[:80]!r} needs more than {STATES:,} states; write another")
                    numbers[following] = len(order)
                    order.append(following)
                row[i] = numbers[following]
        rows.append(row)
    return np.stack(rows), np.array([final in subset for subset in order])
