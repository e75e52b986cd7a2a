"""Read a pickle as plain data: an interpreter of its opcodes that imports nothing, calls nothing and sets nothing.

A pickle is a program for a small stack machine. Python's own `pickle` runs it, and every function that it names. Here
only the opcodes that a state dict needs are interpreted. Their values are inert: None, numbers, strings, lists, tuples,
dictionaries, and the records `Name` (a name in a module) and `Call` (a call that the pickle asks for, never made).
"""

import pickletools
from typing import Any

from guidance_jax.core import Refused

STEPS = (
    4_000_000  # opcodes: a state dict of 10,000 tensors has about 300,000; at some 100 bytes each this bounds memory
)
DIGITS = 64  # most bits of an integer that is a key: longer integers can be chosen to have equal hashes


class Name:
    """The name of a function or class in a module, as text; it is never imported.

    Attributes:
      module: the module, for example "torch".
      name: the name in it, for example "FloatStorage".
    """

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __repr__(self):
        return f"{self.module}.{self.name}"


class Call:
    """A call that the pickle asks for and that is never made.

    Attributes:
      function: the `Name` of the function, or another value if the pickle has one there.
      args: the arguments, a tuple in a sound pickle.
      items: the (key, value) pairs and appended values that the pickle adds to the result, in order.
      state: the argument of the result's `__setstate__`; None without one.
    """

    __slots__ = ("args", "function", "items", "state")

    def __init__(self, function: Any, args: Any):
        self.function, self.args = function, args
        self.items: list[Any] = []
        self.state: Any = None

    @property
    def target(self) -> tuple[str, str] | None:
        """The (module, name) of the function; None if `function` is no `Name`."""
        return (self.function.module, self.function.name) if isinstance(self.function, Name) else None


class Stored:
    """A reference to data outside the pickle, such as a tensor's storage; `identity` is what the pickle calls it."""

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
    """Read one pickle from the current position of `file`, which afterwards is at the end of the pickle.

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
        # raised by `genops` and by the stack for bytes that are no pickle
        raise Refused(f"its pickle is damaged or cut short ({type(error).__name__})") from None
    raise Refused("its pickle is cut short")


class Machine:
    """Interpret one pickle, with its stack and its memo."""

    def __init__(self):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark in the place of a value")
        return value

    def since_mark(self) -> list[Any]:
        """Remove the last mark and the values above it, and return these values."""
        index = len(self.stack) - 1
        while self.stack[index] is not MARK:
            index -= 1
            if index < 0:
                raise IndexError("no mark")
        values = self.stack[index + 1 :]
        del self.stack[index:]
        return values

    def step(self, name: str, argument: Any) -> None:
        """Execute the opcode `name` with its argument."""
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
                self.pop()  # keyword arguments, which no object read here has
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
        """Add `items` to the dictionary, or to the items of the `Call`, on top of the stack."""
        target = self.top()
        if isinstance(target, dict):
            for key, value in items:
                target[check_key(key)] = value
        else:
            of_call(target).extend(items)


def pairs(values: list[Any]) -> Any:
    """Pair the values: the first with the second, the third with the fourth, and so on."""
    return zip(values[::2], values[1::2], strict=True)


def of_call(target: Any) -> list[Any]:
    """Return the items of a `Call`, the only object that a pickle may add to; raise for others."""
    if not isinstance(target, Call):
        raise TypeError("what is put into something that is no container")
    return target.items


def check_key(key: Any) -> Any:
    """Return a dictionary's key if it is a short number, text, None or a tuple of those: other keys may hash slowly."""
    for part in key if isinstance(key, tuple) else (key,):
        short = not isinstance(part, int) or part.bit_length() <= DIGITS
        if not (part is None or isinstance(part, str | bytes | float | int)) or not short:
            raise Refused(f"its pickle has a {type(part).__name__} in a dictionary's key, which no state dict needs")
    return key
