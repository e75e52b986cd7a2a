"""Who works on what, among processes that share nothing but a folder: no server, no lock, no clock in common.

A claim is a file that only one process can make. Its holder touches it while it works; a claim that has not been
touched for a while, by the watch of the one who looks at it, is taken over. No claim protects data: what is written is
written whole (`files.write_whole`) and depends on its index alone, so that two holders of one claim cost work alone.
In an object store two that find a claim abandoned at the same time may both hold it; and a holder that sleeps for
longer than a claim lives goes on beside the next one.
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
      expires: seconds without a touch after which another's claim is taken for abandoned; it is touched six times as
        often. A claim of a process of this machine that has ended is abandoned at once.
    """

    def __init__(self, folder: Any, expires: float = EXPIRES):
        self.folder, self.expires = folder, expires
        self.token = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
        self.held: set[Any] = set()
        self.seen: dict[Any, tuple[Any, float]] = {}

    def path(self, name: str) -> Any:
        """The file of a claim."""
        return self.folder / f"{CLAIM}{name}"

    def take(self, name: str) -> bool:
        """Whether `name` is now this process's, for it to `release`.

        Raises:
          Refused: a folder that cannot be written to.
        """
        return self._make(self.path(name)) or (self._expire(self.path(name)) and self._make(self.path(name)))

    def release(self, name: str) -> None:
        """Give `name` up, if it is still this process's."""
        path = self.path(name)
        self.held.discard(path)
        if _read(path) == self.token:
            with suppress(FileNotFoundError):
                path.unlink()

    @contextmanager
    def touching(self) -> Iterator["Claims"]:
        """Within the block what is held is touched, by a thread of its own; at its end all is released."""
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
        """(item, what `attempt` made of it) of all `items`; None is for one that another has, and it comes again."""
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
            raise Refused(f"{path}: {reason(error)}; mend that and start again") from None
        self.held.add(path)
        return True

    def _expire(self, path: Any) -> bool:
        """Whether another's claim was abandoned, and is gone now."""
        mark = read_mark(path)
        if mark is None:
            return True  # released meanwhile
        before = self.seen.get(path)
        if before is None or before[0] != mark:
            self.seen[path] = before = mark, time.monotonic()
        if time.monotonic() - before[1] < self.expires and not _has_ended(_read(path)):
            return False
        if is_remote(path):  # no renaming: two may come here, and both draw the same
            with suppress(OSError):  # another was faster
                path.unlink()
            return True
        aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            os.rename(path, aside)  # one of those who find it abandoned gets it
        except OSError:
            return True
        if read_mark(aside) != mark:  # a new holder's, made between the look and the renaming: put it back
            with suppress(OSError):
                os.link(aside, path)
            aside.unlink(missing_ok=True)
            return False
        aside.unlink(missing_ok=True)
        return True


def _read(path: Any) -> str | None:
    """Whose a claim is."""
    try:
        with errors_of_stores(path):
            return path.read_text().partition("\n")[0]
    except (OSError, ValueError):
        return None


def _has_ended(token: str | None) -> bool:
    """Whether a holder is known to have ended: a process of this machine that is no more."""
    host, pid, *_ = [*(token or "").split(" "), "", ""]
    return host == socket.gethostname() and pid.isdecimal() and os.name == "posix" and is_dead(int(pid))
