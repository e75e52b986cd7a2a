"""How much memory a program will need on a device, foretold from its equations alone.

The prediction walks the program in its order and adds what lives at the same time. Elementwise results cost nothing
where compilers fuse them into what reads them; everything else is a buffer from where it is made to where it is read
last. Loops need their body once; what a loop slices from an array (the parameters of one block, say) is a buffer of the
body.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

# results of these are computed where they are read: the cheap ones by each reader again, the others by a single one
CHEAP = {
    *("add", "sub", "mul", "neg", "max", "min", "sign", "abs", "floor", "round", "square", "integer_pow", "clamp"),
    *("select_n", "lt", "gt", "le", "ge", "eq", "ne", "and", "or", "not", "convert_element_type", "stop_gradient"),
    *("copy", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "is_finite"),
}
COSTLY = {
    *("div", "exp", "exp2", "expm1", "log", "log1p", "tanh", "logistic", "rsqrt", "sqrt", "cbrt", "pow", "sin", "cos"),
    *("erf", "erf_inv"),
}


class Memory(NamedTuple):
    """Bytes on one device.

    Attributes:
      arguments: what goes in, parameters mostly.
      temporary: what the program needs beside it.
      output: what comes out.
    """

    arguments: int
    temporary: int
    output: int

    def __str__(self):
        parts = ", ".join(f"{name} {size / 2**20:,.1f}" for name, size in self._asdict().items())
        return f"{sum(self) / 2**20:,.1f} MiB on a device ({parts})"


def size(aval: Any) -> int:
    """Bytes of an array of that shape and type; keys are two words."""
    if jax.numpy.issubdtype(aval.dtype, jax.dtypes.extended):
        return int(np.prod(aval.shape)) * 8
    return int(np.prod(aval.shape)) * aval.dtype.itemsize


def inner(equation: Any) -> list[Any]:
    """The programs inside an equation: bodies of loops, branches, functions."""
    found = []
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            one = one.jaxpr if isinstance(one, jax.extend.core.ClosedJaxpr) else one
            if isinstance(one, jax.extend.core.Jaxpr):
                found.append(one)
    return found


def temporaries(program: Any) -> int:
    """The most that buffers of a program need at one time, its inputs left out."""
    equations = program.eqns
    outputs = {v for v in program.outvars if isinstance(v, jax.extend.core.Var)}
    reads: dict[Any, list[int]] = {}
    for i, equation in enumerate(equations):
        for v in equation.invars:
            if isinstance(v, jax.extend.core.Var):
                reads.setdefault(v, []).append(i)
    last = {v: max(where) for v, where in reads.items()} | dict.fromkeys(outputs, len(equations))

    def fused(equation):
        if any(v in outputs for v in equation.outvars):
            return False
        once = all(len(reads.get(v, ())) <= 1 for v in equation.outvars)
        return equation.primitive.name in CHEAP or (once and equation.primitive.name in COSTLY)

    for equation in reversed(equations):  # what is fused keeps what it reads alive
        if fused(equation):
            until = max((last.get(v, 0) for v in equation.outvars), default=0)
            for v in equation.invars:
                if isinstance(v, jax.extend.core.Var):
                    last[v] = max(last.get(v, 0), until)
    live: dict[Any, int] = {}
    most = 0
    for i, equation in enumerate(equations):
        bodies = inner(equation)
        sliced = 0
        if equation.primitive.name == "scan":
            pairs = zip(equation.invars, bodies[0].invars, strict=True)
            sliced = sum(size(v.aval) for whole, v in pairs if whole.aval.shape != v.aval.shape)
        within = sliced + max(map(temporaries, bodies), default=0)
        if equation.primitive.name in CHEAP | COSTLY:  # written over what it is the last to read
            live = {v: n for v, n in live.items() if last.get(v, -1) > i}
        if not fused(equation):
            live |= {v: size(v.aval) for v in equation.outvars}
        most = max(most, sum(live.values()) + within)
        live = {v: n for v, n in live.items() if last.get(v, -1) > i}
    return most
