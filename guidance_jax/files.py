"""Write files (samples, checkpoints, manifests) completely or not at all, lock folders, and hash contents."""

import errno
import hashlib
import os
import platform
import signal
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from guidance_jax.core import Refused
from guidance_jax.places import is_remote, upload

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PART = ".part-"  # files that are being written: .part-HOST-PID-RANDOM
LOCK = ".lock"  # the file in a folder that its only writer locks
OLD = 24 * 3600.0  # seconds after which a part file of an unknown process counts as abandoned
UMASK = os.umask(0)  # it can only be read by setting it
os.umask(UMASK)


def write_whole(path: Any, fill: Callable[[Any], Any]) -> None:
    """Write a temporary file with `fill`, then rename it, or upload it as a whole. Nobody ever sees half of a file.

    Args:
      path: the file, on a disk or in an object store (`places`).
      fill: a function that writes into an open file.

    Raises:
      Refused: a disk that is full, a folder that cannot be written to.
    """
    try:
        if is_remote(path):
            upload(path, fill)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        own = f"{PART}{socket.gethostname()}-{os.getpid()}-"
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=own, delete=False) as file:
            try:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                os.unlink(file.name)
                raise
        os.chmod(file.name, 0o666 & ~UMASK)
        os.replace(file.name, path)
    except OSError as error:
        raise Refused(f"{path}: {reason(error)}; no part of it was written: fix this and start again") from None


def sweep(folder: Any) -> None:
    """Remove the part files in `folder` that killed processes left behind.

    A part file stays as long as its process lives on this machine. A part file of another machine is removed after a
    day. Object stores have no part files.
    """
    if is_remote(folder):
        return
    for left in folder.glob(f"{PART}*"):
        try:
            *host, pid, _ = left.name.removeprefix(PART).split("-")
            here = "-".join(host) == socket.gethostname() and pid.isdecimal() and os.name == "posix"
            if is_dead(int(pid)) if here else time.time() - left.stat().st_mtime > OLD:
                left.unlink(missing_ok=True)
        except (OSError, ValueError):  # another process removed it, or its name has another form
            continue


def is_dead(pid: int) -> bool:
    """Return whether no process of this machine has the number `pid`."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it is alive, and another user's
        return False
    return False


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be the only writer in `folder`. The kernel releases the lock when the process ends, however it ends.

    If the file system or the operating system has no locks, this warns and locks nothing.

    Raises:
      Refused: another process, or another thread of this one, holds the lock; a folder that cannot be written to.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise Refused(f"{folder}: {reason(error)}; choose another place") from None
    try:
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, "no file locks")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(
                f"{folder} is in use by another training; wait until it ends, or train into another folder"
            ) from None
        except OSError as error:
            warnings.warn(f"{folder} cannot be locked ({error.strerror}); start only one training there", stacklevel=2)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def hold_interruptions() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block: libraries with threads of their own cannot be stopped in the middle.

    Ctrl-C reaches only the main thread. In other threads this does nothing.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    came: list[tuple] = []
    signal.signal(signal.SIGINT, lambda *arguments: came.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came and callable(before):
        before(*came[0])
    elif came and before == signal.SIG_DFL:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make sure that no Ctrl-C is lost while the block runs.

    Python prints and drops an exception in a destructor or a callback of the garbage collector. If Ctrl-C comes inside
    a destructor or JAX's callback, it is raised again a moment later.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        where = frame
        while where is not None and where.f_code.co_name not in ("__del__", "_xla_gc_callback"):
            where = where.f_back
        if where is None:
            raise KeyboardInterrupt
        again = threading.Timer(0.01, signal.raise_signal, (number,))
        again.daemon = True
        again.start()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def content_hash(what: Any) -> str:
    """Return a hash that depends only on the content of a file, a folder or a pytree: 32 hexadecimal digits (BLAKE2b).

    Args:
      what: a `Path` or a pytree. A file is hashed by its bytes, a folder by the relative names and bytes of all its
        files, without hidden files and images (.png). A pytree of arrays, strings, bytes and numbers is hashed by keys,
        shapes, types and values.

    Raises:
      Refused: a path that cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(what, Path):
        try:
            if not what.is_dir():
                with open(what, "rb") as file:
                    return hashlib.file_digest(file, lambda: digest).hexdigest()
            found = {path.relative_to(what): path for path in what.rglob("*") if path.is_file()}
        except OSError as error:
            raise Refused(f"{what} cannot be read ({error.strerror or error})") from None
        for name in sorted(found):
            if name.suffix != ".png" and not any(part.startswith(".") for part in name.parts):
                digest.update(f"{len(name.as_posix())} {name.as_posix()} {content_hash(found[name])}".encode())
        return digest.hexdigest()
    for keys, leaf in jax.tree_util.tree_leaves_with_path(what):
        if isinstance(leaf, str | bytes):
            raw = leaf.encode() if isinstance(leaf, str) else leaf
            array = np.frombuffer(raw, np.uint8)
        else:
            array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(keys)} {type(leaf) is str} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return digest.hexdigest()


def cache(name: str) -> Path:
    """Return the folder `name` for files that can be made or downloaded again. The writer must create it."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "guidance_jax" / name


def reason(error: OSError) -> str:
    """Say in words why something cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "the disk is full" if full else f"it cannot be written ({error.strerror or error})"


def check_writable(path: Path) -> None:
    """Raise `Refused` now, not after hours, if a file cannot be written at `path`."""
    try:
        if path.is_dir():
            raise Refused(f"{path} is a folder; give the name of a file in it")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=PART):
            pass
    except OSError as error:
        raise Refused(f"{path}: {reason(error)}; choose another place") from None


def versions() -> dict[str, str]:
    """Return the versions and the device with which numbers are measured."""
    return {"jax": jax.__version__, "python": platform.python_version(), "device": str(jax.devices()[0])}
