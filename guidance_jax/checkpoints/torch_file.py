"""Read PyTorch's `.pt` files as NumPy arrays, without PyTorch and without running code from the file.

A `.pt` is a pickle, a program that may call anything. `pickled` reads it as inert data; this module turns the records
of tensors in it into arrays, and leaves other objects as records. Both of PyTorch's formats are read: the zip archive
(`torch.save` since 1.6) and the older sequence of pickles.

Every size is compared with the file before memory of that size is read or allocated. Arrays are views of the storages,
which together are no longer than the file.
"""

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from guidance_jax.checkpoints.pickled import Call, Name, Stored, read_pickle
from guidance_jax.core import Refused

STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "UntypedStorage": np.uint8,
}
DTYPES = {
    **{name: np.dtype(name) for name in ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8")},
    **{name: np.dtype(name) for name in ("uint16", "uint32", "uint64")},
    **{str(d): d for d in map(np.dtype, (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2))},
    "float": np.dtype("float32"),
    "double": np.dtype("float64"),
    "half": np.dtype("float16"),
    "long": np.dtype("int64"),
    "int": np.dtype("int32"),
    "bool": np.dtype("bool"),
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
DICTIONARIES = {("collections", "OrderedDict"), ("builtins", "dict"), ("torch.nn", "ParameterDict")}
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
WHOLE_PICKLE = 2**28  # most bytes of the pickle in an archive


class Storage(NamedTuple):
    """The memory that tensors are views of: numbers of one type, one after the other."""

    data: np.ndarray


class Archive:
    """Read the storages of one file, each once; together they may be no longer than the file."""

    def __init__(self, read: Any, size: int):
        self.read, self.left = read, size
        self.known: dict[str, bytes] = {}

    def storage(self, record: Any) -> Storage:
        """Return the storage that a record of the pickle refers to."""
        identity = record.identity if isinstance(record, Stored) else None
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            raise Refused("it has a tensor without a storage")
        _, kind, key, _, size = identity[:5]
        dtype = (
            STORAGES.get(kind.name) if isinstance(kind, Name) and kind.module in ("torch", "torch.storage") else None
        )
        if dtype is None or not isinstance(key, str | int) or not isinstance(size, int):
            raise Refused(f"it refers to a storage of type {kind if isinstance(kind, Name) else type(kind).__name__}")
        if len(identity) > 5 and identity[5] is not None:
            raise Refused(f"storage {key} is a view of another, as PyTorch before 0.4 wrote them; save it again")
        key = str(key)
        if key not in self.known:
            raw = self.read(key, self.left)
            self.left -= len(raw)
            self.known[key] = raw
        raw = self.known[key]
        if len(raw) != size * np.dtype(dtype).itemsize:
            raise Refused(f"storage {key} holds {len(raw)} bytes, its pickle expects {size} numbers of {kind.name}")
        return Storage(np.frombuffer(raw, dtype))


def read_zip(source: Any, size: int) -> tuple[Any, Archive]:
    with zipfile.ZipFile(source) as archive:
        members = {info.filename: info for info in archive.infolist()}
        root = next((n.removesuffix("data.pkl") for n in members if n.endswith("/data.pkl") or n == "data.pkl"), None)
        if root is None:
            raise Refused("it is a zip archive without data.pkl, which PyTorch does not write")

        def read(name: str, limit: int) -> bytes:
            info = members.get(name)
            if info is None:
                raise Refused(f"its archive has no member {name}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise Refused(f"{name} is compressed, which torch.save never does; save it again")
            if info.file_size > limit:
                raise Refused(f"{name} claims {info.file_size:,} bytes, more than the file has")
            return archive.read(info)

        if f"{root}byteorder" in members and read(f"{root}byteorder", 16) != b"little":
            raise Refused("it was written on a big-endian machine; save it again on another")
        found = read_pickle(io.BytesIO(read(f"{root}data.pkl", min(size, WHOLE_PICKLE))))
        content = Archive(lambda key, left: read(f"{root}data/{key}", left), size)
        for record in storages_in(found):  # read all storages now, while the archive is open
            if known_storage(record):
                content.storage(record)
        return found, content


def read_legacy(file: Any, size: int) -> tuple[Any, Archive]:
    file.seek(0)
    if (magic := read_pickle(file)) != LEGACY_MAGIC:
        check_foreign(magic)
        raise Refused("it is a pickle, but PyTorch did not write it")
    for _ in range(2):  # protocol version and word sizes
        read_pickle(file)
    found, keys = read_pickle(file), read_pickle(file)
    wanted = {str(r.identity[2]): r.identity[1] for r in storages_in(found) if known_storage(r)}
    raw: dict[str, bytes] = {}
    for key in keys if isinstance(keys, list) else ():
        kind = wanted.get(key) if isinstance(key, str) else None
        if kind is None:
            raise Refused(
                f"storage {key!r} belongs to no tensor" if isinstance(key, str) else "its storage keys are not text"
            )
        count = int.from_bytes(file.read(8), "little", signed=True)
        length = count * np.dtype(STORAGES[kind.name]).itemsize
        if not 0 <= length <= size - file.tell():
            raise Refused(f"storage {key} is cut short")
        raw[key] = file.read(length)

    def read(key: str, left: int) -> bytes:
        if key not in raw:
            raise Refused(f"storage {key} is cut short")
        return raw[key]

    return found, Archive(read, size)


def known_storage(record: Stored) -> bool:
    """Return whether a record refers to a storage of a known type."""
    identity = record.identity
    return (
        isinstance(identity, tuple)
        and len(identity) >= 5
        and isinstance(identity[1], Name)
        and identity[1].name in STORAGES
    )


def storages_in(found: Any) -> list[Stored]:
    """Return every storage record in the value of a pickle, each once."""
    waiting, seen, storages = [found], set(), []
    while waiting:
        value = waiting.pop()
        if not isinstance(value, dict | list | tuple | Call | Stored) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Stored):
            storages.append(value)
        elif isinstance(value, Call):
            waiting += [value.args, value.items, value.state]
        else:
            waiting += value.values() if isinstance(value, dict) else value
    return storages


def resolve(value: Any, archive: Archive) -> Any:
    """Turn a record into what it describes, one level deep: an array or a dict. Other records stay as they are."""
    if not isinstance(value, Call):
        return value
    target, args = value.target, value.args if isinstance(value.args, tuple) else ()
    if target in DICTIONARIES and all(isinstance(item, tuple) and len(item) == 2 for item in value.items):
        # older OrderedDicts have their items as the first argument
        first = args[0] if args and isinstance(args[0], list) else []
        items = [*(tuple(item) for item in first if isinstance(item, list | tuple) and len(item) == 2), *value.items]
        return {key if isinstance(key, str | int) else repr(key): item for key, item in items}
    if target == ("argparse", "Namespace") and isinstance(value.state, dict):
        return value.state
    if target in (("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state")) and args:
        return resolve(args[0], archive)
    if target == ("torch._utils", "_rebuild_tensor_v2") and len(args) >= 4:
        return view_of(archive.storage(args[0]).data, *args[1:4])
    if target == ("torch._utils", "_rebuild_tensor_v3") and len(args) >= 7:
        dtype = DTYPES.get(args[6].name) if isinstance(args[6], Name) else None
        if dtype is None:
            raise Refused(f"it has a tensor of type {args[6]}")
        raw = archive.storage(args[0]).data.view(np.uint8)
        return view_of(raw[: len(raw) // dtype.itemsize * dtype.itemsize].view(dtype), *args[1:4])
    if target in tuple((module, "_reconstruct") for module in NUMPY):
        return numpy_array(value.state)
    if target in tuple((module, "scalar") for module in NUMPY) and len(args) == 2:
        return numpy_array((1, (), args[0], False, args[1]))
    if target in tuple((f"{module.removesuffix('multiarray')}numeric", "_frombuffer") for module in NUMPY):
        return numpy_array((1, args[2], args[1], args[3] == "F", args[0]) if len(args) == 4 else None)
    return value


def view_of(data: np.ndarray, offset: Any, size: Any, stride: Any) -> np.ndarray:
    """Return a tensor as a read-only view of its storage.

    Raises:
      Refused: sizes that are no numbers, or a tensor that reaches outside its storage.
    """
    shape, steps = numbers(size), numbers(stride)
    if shape is None or steps is None or len(shape) != len(steps) or numbers((offset,)) is None:
        raise Refused("it has a tensor whose sizes are not numbers")
    if 0 in shape:
        return np.zeros(shape if max(shape) < 2**31 and len(shape) <= 32 else (0,), data.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if last >= len(data) or math.prod(shape) > len(data) or len(shape) > 32:
        raise Refused("it has a tensor that reaches outside its storage")
    view = np.lib.stride_tricks.as_strided(
        data[offset:], shape, [step * data.itemsize for step in steps], writeable=False
    )
    return view


def numbers(values: Any) -> tuple[int, ...] | None:
    """Return the non-negative integers of a tuple, a list or a `torch.Size` as a tuple; None for anything else."""
    if isinstance(values, Call) and values.target == ("torch", "Size") and isinstance(values.args, tuple):
        values = values.args[0] if values.args else ()
    if not isinstance(values, tuple | list) or not all(type(n) is int and n >= 0 for n in values):
        return None
    return tuple(values)


def numpy_array(state: Any) -> np.ndarray:
    """Build a NumPy array from its pickled state: (version, shape, dtype, Fortran order, bytes).

    Raises:
      Refused: another state, a type that is no plain number, or a number of bytes that does not fit the shape.
    """
    if not isinstance(state, tuple) or len(state) != 5:
        raise Refused("it has a NumPy array without its state")
    _, shape, kind, fortran, raw = state
    if isinstance(raw, Call) and raw.target == ("_codecs", "encode") and raw.args:
        raw = raw.args[0]
    try:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
    except UnicodeEncodeError:
        raw = None
    code = kind.args[0] if isinstance(kind, Call) and kind.target == ("numpy", "dtype") and kind.args else None
    shape, letters = numbers(shape), isinstance(code, str) and code in NUMPY_TYPES
    if shape is None or not letters or not isinstance(raw, bytes | bytearray):
        raise Refused("it has a NumPy array of something other than plain numbers")
    swapped = isinstance(kind.state, tuple) and len(kind.state) > 1 and kind.state[1] == ">"
    dtype = np.dtype(code).newbyteorder(">" if swapped else "=")
    if math.prod(shape) * dtype.itemsize != len(raw) or len(shape) > 32:
        raise Refused("it has a NumPy array whose size does not match its bytes")
    return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran is True else "C")


NUMPY_TYPES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


def read_torch(path: str | Path | bytes, key: str | None = None) -> dict[str, np.ndarray]:
    """Read the state dict of a `.pt` file: name -> read-only array.

    Nothing that the file names is ever imported, called or changed. Reading takes at most twice the memory of the file,
    and about 100 bytes for each opcode of its pickle, of which there may be four million.

    Args:
      path: the file, or its content as bytes.
      key: in a file with several entries, the one that is the state dict, for example "ema"; "a.b" is b in a. None if
        the file itself is the state dict.

    Raises:
      Refused: a file that is missing, truncated or foreign, or that contains anything but named tensors.
    """
    content, path = (path, "the file") if isinstance(path, bytes) else (None, Path(path))
    if isinstance(path, Path) and not path.is_file():
        raise Refused(f"there is no file {path}; pass the path of a .pt or .safetensors file")
    try:
        with open(path, "rb") if content is None else io.BytesIO(content) as file:
            size = file.seek(0, io.SEEK_END)
            found, archive = read_zip(file, size) if zipfile.is_zipfile(file) else read_legacy(file, size)
        return state_in(path, found, archive, key)
    except Refused as error:
        text = "".join(c if c.isprintable() else "?" for c in str(error))  # the message may have names of the file
        raise Refused(text if text.startswith(str(path)) else f"{path} was refused: {text}") from None
    except (OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise Refused(
            f"{path} is truncated or not a PyTorch file ({type(error).__name__}); compare its size with the source "
            "and fetch it again"
        ) from None


def state_in(path: Any, found: Any, archive: Archive, key: str | None) -> dict[str, np.ndarray]:
    """Return the state dict in the value `found` of a file, or in its entry `key`.

    Raises:
      Refused: no such entry, or no plain state dict there.
    """
    found = resolve(found, archive)
    for part in key.split(".") if key else ():
        if not isinstance(found, dict) or part not in found:
            raise Refused(f"{path} has no entry {part!r}; it holds {entries(found)}")
        found = resolve(found[part], archive)
    if not isinstance(found, dict) or not found:
        check_foreign(found)
        raise Refused(f"{path} holds a {type(found).__name__}, expected a state dict (name -> tensor)")
    state = {name: resolve(value, archive) for name, value in found.items()}
    odd = [k for k, v in state.items() if not (isinstance(k, str) and isinstance(v, np.ndarray))]
    inside = [k for k, v in state.items() if isinstance(v, dict) and any(is_tensor(a) for a in v.values())]
    if inside:
        raise Refused(f"{path} holds several entries, {entries(state)}; choose the network: key={inside[-1]!r}")
    if odd:
        check_foreign(state)
        what = f"{str(odd[0])[:80]!r} is a {type(state[odd[0]]).__name__}"
        raise Refused(f"{path} is not a plain state dict: {what}; save model.state_dict() alone")
    return state


def check_foreign(found: Any) -> None:
    """Raise `Refused`, which names the call, if `found` is or directly contains a call that builds no array."""
    for value in (found, *found.values()) if isinstance(found, dict) else (found,):
        if isinstance(value, Call):
            raise Refused(f"it would run {str(value.function)[:80]}, which no state dict needs; nothing was run")


def is_tensor(value: Any) -> bool:
    """Return whether a value is the record of a tensor or a NumPy array."""
    return isinstance(value, Call) and (value.target or ("", ""))[0] in ("torch._utils", *NUMPY)


def entries(found: Any) -> str:
    """List the first eight names in a dictionary; for other values, return their type."""
    names = [str(name)[:80] for name in list(found)[:9]] if isinstance(found, dict) else []
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else type(found).__name__
