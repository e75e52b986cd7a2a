"""Hostile `.pt` files: a pickle is data here, whatever it asks for; mutated files give a state dict or one line."""

import collections
import io
import os
import pickle
import random
import resource
import struct
import sys
import zipfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from guidance_jax.checkpoints.torch_file import LEGACY_MAGIC, read_torch
from guidance_jax.core import Refused

FOLDER = Path(__file__).parent / "golden"
MUTANTS = int(os.environ.get("MUTANTS", "0"))  # 100,000 were run before release


class Named:
    """Pickles as whatever callable is given, with those arguments, without that being importable here."""

    def __init__(self, module, name, *args, state=None):
        self.parts = module, name, args, state


class Writer(pickle._Pickler):
    """A pickler in Python that writes names, calls and storages as text says, PyTorch's and worse."""

    def save_named(self, value):
        module, name, args, state = value.parts
        self.write(b"c" + module.encode() + b"\n" + name.encode() + b"\n")
        if args is not None:
            self.save(args)
            self.write(b"R")
        if state is not None:
            self.save(state)
            self.write(b"b")

    dispatch: ClassVar[dict] = {**pickle._Pickler.dispatch, Named: save_named}

    def persistent_id(self, value):
        return value.identity if isinstance(value, Stored) else None


class Stored:
    def __init__(self, kind, key, size):
        self.identity = ("storage", Named("torch", kind, *(None,)) if isinstance(kind, str) else kind, key, "cpu", size)
        self.identity[1].parts = (*self.identity[1].parts[:2], None, None)


def pickled(value, protocol=2):
    file = io.BytesIO()
    Writer(file, protocol).dump(value)
    return file.getvalue()


def tensor(key="0", size=6, shape=(2, 3), stride=(3, 1), offset=0, kind="FloatStorage"):
    return Named(
        "torch._utils",
        "_rebuild_tensor_v2",
        Stored(kind, key, size),
        offset,
        shape,
        stride,
        False,
        Named("collections", "OrderedDict"),
    )


def archive(pickle_, data=None, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr("a/data.pkl", pickle_)
        for key, raw in (data or {"0": np.arange(6, dtype=np.float32).tobytes()}).items():
            out.writestr(f"a/data/{key}", raw)
    return file.getvalue()


def legacy(value, storages=()):
    head = b"".join(pickle.dumps(v, 2) for v in (LEGACY_MAGIC, 1001, {}))
    tail = pickle.dumps([key for key, _ in storages], 2)
    return head + pickled(value) + tail + b"".join(struct.pack("<q", len(raw) // 4) + raw for _, raw in storages)


def test_what_torch_save_writes_is_read_as_views():
    found = read_torch(archive(pickled({"w": tensor(), "b": tensor(shape=(3,), stride=(1,), offset=3)})))
    np.testing.assert_array_equal(found["w"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["b"], [3, 4, 5])
    assert not found["w"].flags.owndata  # nothing is copied


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_arrays_and_scalars_are_read(protocol):
    arrays = {"a": np.arange(6, dtype=np.float64).reshape(2, 3), "b": np.float32(2.5), "c": np.arange(3, dtype=">i4")}
    found = read_torch(archive(pickle.dumps(collections.OrderedDict(arrays), protocol)))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_what_else_a_training_run_keeps_is_left_alone():
    held = {"ema": {"w": tensor()}, "step": 7, "cfg": Named("my.module", "Config", 1), "seen": {1, 2}, "rng": (1, None)}
    file = archive(pickled(held))
    np.testing.assert_array_equal(read_torch(file, "ema")["w"], [[0, 1, 2], [3, 4, 5]])
    with pytest.raises(Refused, match=r"several entries, ema, step, cfg, seen, rng; .*key='ema'"):
        read_torch(file)


EVIL = Named("os", "system", "touch ran")
HEAP = Named("numpy", "int64", Named("torch", "LongStorage", None))
HOSTILE = {
    "a call in the place of a tensor": ({"w": EVIL}, r"would run os\.system"),
    "a call in the place of everything": (EVIL, r"would run os\.system"),
    "a call of a storage's type, an array over any address": (
        {"w": Named("torch", "LongStorage", {"__array_interface__": {"data": (4096, False), "shape": (8,)}})},
        r"would run torch\.LongStorage",
    ),
    "a storage that is no storage": (
        {"w": Named("torch._utils", "_rebuild_tensor_v2", HEAP, 0, (8,), (1,), False, None)},
        "without a storage",
    ),
    "state set on a tensor": (
        {"w": Named("torch._utils", "_rebuild_tensor_v2", Stored("FloatStorage", "0", 6), 0, (1,), (1,), state={})},
        None,  # what is set changes nothing
    ),
    "more than the storage": ({"w": tensor(shape=(2, 4), stride=(3, 1))}, "outside its storage"),
    "far outside": ({"w": tensor(shape=(2, 3), stride=(2**40, 1))}, "outside its storage"),
    "an offset before the start": ({"w": tensor(offset=-1)}, "not numbers"),
    "one number said to be four million million": (
        {"w": tensor(shape=(2**21, 2**21), stride=(0, 0))},
        "outside its storage",
    ),
    "a storage said to be longer": ({"w": tensor(size=2**40)}, "holds 24 bytes"),
    "a storage that is missing": ({"w": tensor(key="../../etc/passwd")}, "no member"),
    "an unknown type": ({"w": tensor(kind="QInt8Storage")}, "storage of type torch.QInt8Storage"),
    "sizes that are truth values": ({"w": tensor(shape=(True, 3))}, "not numbers"),
    "a key of great cost": ({(2**61 - 1) << 80: 1, "w": tensor()}, "dictionary's key"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_pickles_are_refused_in_one_line_and_change_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    value, message = HOSTILE[name]
    before = set(sys.modules)
    for file in (archive(pickled(value)), legacy(value, [("0", np.arange(6, dtype=np.float32).tobytes())])):
        if message is None:
            assert list(read_torch(file)) == ["w"]
            continue
        with pytest.raises(Refused) as caught:
            read_torch(file)
        assert "\n" not in str(caught.value)
    if message is not None:
        with pytest.raises(Refused, match=message):
            read_torch(archive(pickled(value)))
    assert set(sys.modules) == before
    assert not list(tmp_path.iterdir())


def test_nothing_of_this_process_can_be_reached():
    """BUILD on what the reader itself is made of: the old one let a pickle replace a method of its classes."""
    targets = [
        ("torch._utils", "_rebuild_tensor_v2"),
        ("torch", "BFloat16Storage"),
        ("torch._utils", "_rebuild_parameter"),
    ]
    for module, name in targets:
        for state in ({"array": 1}, (None, {"array": 1}), (None, {"__defaults__": ()})):
            with pytest.raises(Refused):
                read_torch(archive(pickled({"w": Named(module, name, None, state=state)})))
    np.testing.assert_array_equal(read_torch(archive(pickled({"w": tensor()})))["w"], [[0, 1, 2], [3, 4, 5]])


def test_sizes_are_compared_with_the_file_before_anything_is_read():
    zeros = bytes(2**22)
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(Refused, match="compressed"):
            read_torch(archive(pickled({"w": tensor(size=2**20)}), {"0": zeros}, compression))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    claims = legacy({"w": tensor(size=2**36)}) + struct.pack("<q", 2**36)
    with pytest.raises(Refused, match="cut short"):
        read_torch(claims)
    with pytest.raises(Refused):  # a text of four billion bytes, said in eight
        read_torch(archive(b"\x80\x04\x8d" + struct.pack("<Q", 2**32) + b"abc."))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


def test_depth_and_length_are_bounded(monkeypatch):
    deep = b"\x80\x02" + b")" + b"\x85" * 50_000 + b"."
    for file in (archive(deep), deep):
        with pytest.raises(Refused):
            read_torch(file)
    monkeypatch.setattr("guidance_jax.checkpoints.pickled.STEPS", 1000)
    with pytest.raises(Refused, match="more than 1,000 opcodes"):
        read_torch(archive(b"\x80\x02" + b"N0" * 600 + b"N."))


def mutated(rng, whole):
    """`whole` with a few bytes changed, removed, doubled or put in, opcodes of calls among them."""
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                data[at : at + rng.randrange(1, 9)] = b""
            case 2:
                data[at:at] = rng.choice(
                    (b"R", b"b", b"\x81", b"cos\nsystem\n", b"0", b"1", b"2", b"(", b"t", b"u", b".")
                )
            case 3:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
            case 4:
                data[at : at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)))
            case 5:
                del data[at:]
                data += whole[rng.randrange(len(whole)) :]
    return bytes(data)


def test_mutated_files_give_a_state_dict_or_one_line():
    """No other exception, nothing imported, no memory beyond the files' own."""
    rng = random.Random(0)
    values = {"w": tensor(), "b": tensor(shape=(3,), stride=(1,)), "n": {"a": [1, 2.5, "x"], "s": {1, 2}}}
    numpy_ = pickle.dumps({"w": np.arange(4.0), "i": np.int64(3)}, 4)
    pickles = [pickled(values), pickled(values, 4), pickled({"ema": values, "args": EVIL}), numpy_]
    wholes = [(FOLDER / f).read_bytes() for f in ("torch_zip.pt", "torch_legacy.pt", "torch_nested.pt")]
    before, results = set(sys.modules), collections.Counter()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(MUTANTS or 1500):
        file = archive(mutated(rng, rng.choice(pickles))) if i % 2 else mutated(rng, rng.choice(wholes))
        try:
            found = read_torch(file, rng.choice((None, None, "ema", "n.a")))
            for value in found.values():
                assert isinstance(value, np.ndarray)
                float(np.sum(np.asarray(value).astype(np.float64)))  # every number lies in the file's memory
            results["read"] += 1
        except Refused as error:
            results["refused" if "\n" not in str(error) else "more than one line"] += 1
    assert results["read"] > 10
    assert results["more than one line"] == 0
    assert results["refused"] > 500
    assert {name for name in set(sys.modules) - before if not name.startswith("encodings.")} == set()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 64 * 1024  # KiB
    print(dict(results))
