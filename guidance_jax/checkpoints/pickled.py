"""Read a pickle as plain data: an interpreter of its opcodes that imports nothing, calls nothing and sets nothing.

A pickle is a program for a small stack machine. Python's own `pickle` runs it, and whatever it names. Here the opcodes
that a state dict needs are interpreted over inert values: None, numbers, strings, lists, tuples, dictionaries, and the
records `Name` (a name of a module) and `Call` (a call that was asked for and never made).
"""

import pickletools
from typing import Any

from guidance_jax.core import Refused

STEPS = (
    4_000_000  # opcodes: a state dict of 10,000 tensors has about 300,000; at some 100 bytes each this bounds memory
)
DIGITS = 64  # bits of an integer that is a key: longer ones can be chosen to have equal hashes


class Name:
    """A module and a name in it, as text.

    Attributes:
      module, name: "torch", "FloatStorage".
    """

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __repr__(self):
        return f"{self.module}.{self.name}"


class Call:
    """A call that the pickle asks for, not made: what is called, its arguments, and what was put in afterwards.

    Attributes:
      function: a `Name`, or whatever the pickle put in its place.
      args: a tuple.
      items: (key, value) pairs and appended values, in their order.
      state: what the object was to be given by `__setstate__`; None without.
    """

    __slots__ = ("args", "function", "items", "state")

    def __init__(self, function: Any, args: Any):
        self.function, self.args = function, args
        self.items: list[Any] = []
        self.state: Any = None

    @property
    def target(self) -> tuple[str, str] | None:
        """(module, name) of what is called, None if that is no name."""
        return (self.function.module, self.function.name) if isinstance(self.function, Name) else None


class Stored:
    """Something that lies outside the pickle, by the identity that the pickle gives it."""

    __slots__ = ("identity",)

    def __init__(self, identity: Any):
        self.identity = identity


MARK = object()
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
SKIPPED = ("PROTO", "FRAME")


def read_pickle(file: Any) -> Any:
    """The value of the pickle at the place where `file` stands, which is left behind it.

    Sets are read as lists, frozen sets as tuples. Nothing is imported, called or changed.

    Raises:
      Refused: an opcode that no state dict needs, a damaged pickle, one of more than four million opcodes.
    """
    machine = Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > STEPS:
                raise Refused(f"its pickle has more than {STEPS:,} opcodes, which no state dict needs")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except Refused:
        raise
    except (ValueError, KeyError, IndexError, TypeError, OverflowError) as error:
        # what `genops` and the stack say of bytes that are no pickle
        raise Refused(f"its pickle is damaged or cut short ({type(error).__name__})") from None
    raise Refused("its pickle is cut short")


class Machine:
    """The stack and the memo of one pickle."""

    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark in the place of a value")
        return value

    def since_mark(self) -> list[Any]:
        """The values above the last mark, taken off with it."""
        index = len(self.stack) - 1
        while self.stack[index] is not MARK:
            index -= 1
            if index < 0:
                raise IndexError("no mark")
        values = self.stack[index + 1 :]
        del self.stack[index:]
        return values

    def step(self, name: str, argument: Any) -> None:
        """Do what the opcode `name` says."""
        push = self.stack.append
        if name in VALUES:
            push(argument)
        elif name in CONSTANTS:
            push(CONSTANTS[name])
        elif name in EMPTY:
            push(EMPTY[name]())
        elif name == "MARK":
            push(MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            push(self.memo[argument])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple([self.pop() for _ in range(int(name[-1]))][::-1]))
        elif name in ("TUPLE", "FROZENSET"):
            push(tuple(self.since_mark()))
        elif name == "LIST":
            push(self.since_mark())
        elif name == "DICT":
            values = self.since_mark()
            push({})
            self.put(list(pairs(values)))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            values = [self.pop()] if name == "APPEND" else self.since_mark()
            target = self.top()
            (target if isinstance(target, list) else of_call(target)).extend(values)
        elif name == "SETITEM":
            value, key = self.pop(), self.pop()
            self.put([(key, value)])
        elif name == "SETITEMS":
            self.put(list(pairs(self.since_mark())))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            words = [self.pop(), self.pop()][::-1] if name == "STACK_GLOBAL" else argument.split(" ", 1)
            module, word = words
            if not isinstance(module, str) or not isinstance(word, str):
                raise TypeError("a name that is no text")
            push(Name(module, word))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            if name == "NEWOBJ_EX":
                self.pop()  # keyword arguments: of nothing that is read here
            args, function = self.pop(), self.pop()
            push(Call(function, args))
        elif name == "BUILD":
            state, target = self.pop(), self.top()
            of_call(target)
            target.state = state
        elif name == "BINPERSID":
            push(Stored(self.pop()))
        elif name == "POP":
            self.stack.pop()
        elif name == "POP_MARK":
            self.since_mark()
        elif name == "DUP":
            push(self.top())
        elif name not in SKIPPED:
            raise Refused(f"its pickle has the opcode {name}, which no state dict needs; nothing was run")

    def top(self) -> Any:
        if self.stack[-1] is MARK:
            raise ValueError("a mark in the place of a value")
        return self.stack[-1]

    def put(self, items: list[tuple[Any, Any]]) -> None:
        """Put `items` into the dictionary, or beside the call, on top of the stack."""
        target = self.top()
        if isinstance(target, dict):
            for key, value in items:
                target[check_key(key)] = value
        else:
            of_call(target).extend(items)


def pairs(values: list[Any]) -> Any:
    """Neighbours, two by two."""
    return zip(values[::2], values[1::2], strict=True)


def of_call(target: Any) -> list[Any]:
    """Where a call keeps what is put into it; nothing else can be changed."""
    if not isinstance(target, Call):
        raise TypeError("what is put into something that is no container")
    return target.items


def check_key(key: Any) -> Any:
    """A key of a dictionary: a short number, text, or a tuple of those. Others can be made to cost without end."""
    for part in key if isinstance(key, tuple) else (key,):
        short = not isinstance(part, int) or part.bit_length() <= DIGITS
        if not (part is None or isinstance(part, str | bytes | float | int)) or not short:
            raise Refused(f"its pickle has a {type(part).__name__} in a dictionary's key, which no state dict needs")
    return key
