"""PyTorch's `.pt` files as NumPy arrays, without PyTorch, and without running what a pickle may hide.

A `.pt` is a pickle, a program that may call anything. This reader lets it call what a state dict is made of (tensors,
storages, ordered dictionaries) and refuses every other name before anything runs. Both of PyTorch's formats are read:
the zip archive (`torch.save` since 1.6) and the older sequence of pickles.
"""

import io
import pickle
import struct
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from guidance_jax.core import Refused

DTYPES = {
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
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class _Storage:
    """The memory of tensors; in the old format it comes after those that use it."""

    def __init__(self, dtype: Any, size: int, data: np.ndarray | None = None):
        self.dtype, self.size, self.data = np.dtype(dtype), size, data


class _Tensor:
    """A view of a storage; `array` once that is read."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any):
        if not isinstance(storage, _Storage):
            raise Refused("a tensor without a storage")
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)

    def array(self) -> np.ndarray:
        numbers = (self.offset, *self.size, *self.stride)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        inside = all(isinstance(n, int) and n >= 0 for n in numbers) and (0 in self.size or last < self.storage.size)
        if not inside or self.storage.data is None:
            raise Refused("a tensor that reaches outside its storage")
        if 0 in self.size:
            return np.zeros(self.size, self.storage.dtype)
        strides = [s * self.storage.dtype.itemsize for s in self.stride]
        view = np.lib.stride_tricks.as_strided(self.storage.data[self.offset :], self.size, strides)
        return np.array(view)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("argparse", "Namespace"): types.SimpleNamespace,  # the options of a training run, which only hold values
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Reader(pickle.Unpickler):
    """An unpickler that knows `ALLOWED` and nothing else."""

    def __init__(self, file: Any, storage: Any):
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise Refused(f"it would run {module}.{name}, which no state dict needs; nothing was run")
        return ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, _, size, *_ = pid
        if kind != "storage" or dtype not in DTYPES.values() or not isinstance(size, int):
            raise Refused(f"it refers to a {kind!r}, expected storages")
        return self.storage(dtype, str(key), size)


def _read_zip(source: BinaryIO) -> Any:
    with zipfile.ZipFile(source) as archive:
        names = archive.namelist()
        root = next((n.removesuffix("data.pkl") for n in names if n.endswith("/data.pkl")), None)
        if root is None:
            raise Refused("it is a zip archive without data.pkl, not PyTorch's")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise Refused("it was written on a big-endian machine; save it again on another")
        read: dict[str, _Storage] = {}

        def storage(dtype, key, size):
            if key not in read:
                data = np.frombuffer(archive.read(f"{root}data/{key}"), dtype)
                if len(data) != size:
                    raise Refused(f"storage {key} holds {len(data)} numbers, expected {size}")
                read[key] = _Storage(dtype, size, data)
            return read[key]

        with archive.open(f"{root}data.pkl") as file:
            return _arrays(_Reader(file, storage).load())


def _read_legacy(file: BinaryIO) -> Any:
    file.seek(0)
    none: dict[str, _Storage] = {}
    if _Reader(file, none.get).load() != LEGACY_MAGIC:
        raise Refused("it is a pickle, but not PyTorch's")
    for _ in range(2):  # protocol version and word sizes
        _Reader(file, none.get).load()
    read: dict[str, _Storage] = {}
    found = _Reader(file, lambda dtype, key, size: read.setdefault(key, _Storage(dtype, size))).load()
    for key in _Reader(file, none.get).load():
        if key not in read:
            raise Refused(f"storage {key} belongs to no tensor")
        storage = read[key]
        (size,) = struct.unpack("<q", file.read(8))
        raw = file.read(size * storage.dtype.itemsize)
        if size != storage.size or len(raw) != size * storage.dtype.itemsize:
            raise Refused(f"storage {key} is cut short")
        storage.data = np.frombuffer(raw, storage.dtype)
    return _arrays(found)


def _arrays(found: Any) -> Any:
    if isinstance(found, _Tensor):
        return found.array()
    return {k: _arrays(v) for k, v in found.items()} if isinstance(found, dict) else found


def read_torch(path: str | Path | bytes, key: str | None = None) -> dict[str, np.ndarray]:
    """The state dict of a `.pt` file: name -> array.

    Args:
      path: the file, or what is in it.
      key: the entry that is the state dict, "ema" for example, of a file that holds several; "a.b" is b in a.

    Raises:
      Refused: a file that is missing, truncated or foreign, that holds something else than named tensors, or whose
        pickle would call anything but the builders of tensors; the name is given, and nothing has run.
    """
    content, path = (path, "the file") if isinstance(path, bytes) else (None, Path(path))
    if isinstance(path, Path) and not path.is_file():
        raise Refused(f"there is no file {path}; pass the path of a .pt or .safetensors file")
    try:
        with open(path, "rb") if content is None else io.BytesIO(content) as file:
            found = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
    except Refused as error:
        raise Refused(f"{path} was refused: {error}") from None
    except Exception as error:  # a damaged pickle or archive raises anything
        raise Refused(
            f"{path} is truncated or no PyTorch file ({type(error).__name__}); compare its size with the source and "
            "fetch it again"
        ) from None
    for part in key.split(".") if key else ():
        if not isinstance(found, dict) or part not in found:
            raise Refused(f"{path} has no entry {part!r}; it holds {entries(found)}")
        found = found[part]
    if not isinstance(found, dict) or not found:
        raise Refused(f"{path} holds a {type(found).__name__}, expected a state dict (name -> tensor)")
    odd = [k for k, v in found.items() if not (isinstance(k, str) and isinstance(v, np.ndarray))]
    inside = [k for k, v in found.items() if isinstance(v, dict) and any(isinstance(a, np.ndarray) for a in v.values())]
    if inside:
        raise Refused(f"{path} holds several things, {entries(found)}; say which is the network: key={inside[-1]!r}")
    if odd:
        raise Refused(
            f"{path} is no plain state dict: {odd[0]!r} is a {type(found[odd[0]]).__name__}; "
            "save model.state_dict() alone"
        )
    return found


def entries(found: Any) -> str:
    """The first names in a dictionary."""
    names = list(map(str, found)) if isinstance(found, dict) else []
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else type(found).__name__
