"""Claims on work, among processes that share only a folder: no server, no lock, no common clock.

A claim is a file that only one process can create. Its holder touches it while it works. A claim that has not been
touched for a while, on the clock of the process that looks at it, is taken over. Claims do not protect data. Files are
written completely (`files.write_whole`) and depend only on their index, so two holders of one claim only waste work.
That happens in an object store, if two processes find a claim abandoned at the same time. It also happens if a holder
sleeps for longer than a claim lives.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from guidance_jax.core import Refused
from guidance_jax.files import is_dead, reason
from guidance_jax.places import create, errors_of_stores, is_remote, read_mark, touch

CLAIM = ".claim-"  # files of claims: .claim-NAME
T, R = TypeVar("T"), TypeVar("R")
EXPIRES = 120.0  # seconds without a touch after which a claim is abandoned


class Claims:
    """The claims of this process in `folder`.

    Args:
      folder: the shared folder, in an object store, or on a file system with exclusive creation and atomic renaming:
        local, NFS 3 or newer.
      expires: the seconds without a touch after which another process's claim counts as abandoned. Held claims are
        touched six times as often. If a process of this machine has ended, its claims are abandoned at once.
    """

    def __init__(self, folder: Any, expires: float = EXPIRES):
        self.folder, self.expires = folder, expires
        self.token = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        self.held: set[Any] = set()
        self.seen: dict[Any, tuple[Any, float]] = {}

    def path(self, name: str) -> Any:
        """Return the file of the claim `name`."""
        return self.folder / f"{CLAIM}{name}"

    def take(self, name: str) -> bool:
        """Try to claim `name`, and return whether this process now holds it, until it calls `release`.

        Raises:
          Refused: a folder that cannot be written to.
        """
        return self._make(self.path(name)) or (self._expire(self.path(name)) and self._make(self.path(name)))

    def release(self, name: str) -> None:
        """Give up the claim `name`, if this process still holds it."""
        path = self.path(name)
        self.held.discard(path)
        if _read(path) == self.token:
            with suppress(FileNotFoundError):
                path.unlink()

    @contextmanager
    def touching(self) -> Iterator["Claims"]:
        """Touch all held claims in a thread while the block runs, and release them at its end."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(self.expires / 6):
                for path in tuple(self.held):
                    with suppress(OSError):
                        if _read(path) == self.token:  # else taken over by another
                            touch(path)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
            for path in tuple(self.held):
                self.release(path.name.removeprefix(CLAIM))

    def work_through(self, items: Iterable[T], attempt: Callable[[T], R | None]) -> Iterator[tuple[T, R]]:
        """Yield (item, result of `attempt`) of all `items`. If the result is None, the item is attempted again later.

        None means that another process has the item.
        """
        todo = list(items)
        while todo:
            waits = True
            for item in tuple(todo):
                made = attempt(item)
                if made is None:
                    continue
                waits = False
                todo.remove(item)
                yield item, made
            if todo and waits:
                time.sleep(min(1.0, self.expires / 20))

    def _make(self, path: Any) -> bool:
        try:
            if not create(path, self.token):
                return False
        except OSError as error:
            raise Refused(f"{path}: {reason(error)}; fix this and start again") from None
        self.held.add(path)
        return True

    def _expire(self, path: Any) -> bool:
        """Remove another process's claim if it is abandoned, and return whether it is gone."""
        mark = read_mark(path)
        if mark is None:
            return True  # its holder released it meanwhile
        before = self.seen.get(path)
        if before is None or before[0] != mark:
            self.seen[path] = before = mark, time.monotonic()
        if time.monotonic() - before[1] < self.expires and not _has_ended(_read(path)):
            return False
        if is_remote(path):  # no renaming: two processes may come here, and draw the same
            with suppress(OSError):  # another was faster
                path.unlink()
            return True
        aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            os.rename(path, aside)  # succeeds for one of the processes that find it abandoned
        except OSError:
            return True
        if read_mark(aside) != mark:  # a new holder made it before the renaming: put it back
            with suppress(OSError):
                os.link(aside, path)
            aside.unlink(missing_ok=True)
            return False
        aside.unlink(missing_ok=True)
        return True


def _read(path: Any) -> str | None:
    """Return the token of the holder of a claim; None if it cannot be read."""
    try:
        with errors_of_stores(path):
            return path.read_text().partition("\n")[0]
    except (OSError, ValueError):
        return None


def _has_ended(token: str | None) -> bool:
    """Return whether a holder is known to have ended: its process was on this machine and is dead."""
    host, pid, *_ = [*(token or "").split(" "), "", ""]
    return host == socket.gethostname() and pid.isdecimal() and os.name == "posix" and is_dead(int(pid))
