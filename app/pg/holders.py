"""Who uses the embedded server: files under an exclusive flock, which the kernel drops with the process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import Unavailable

LOCK_POLL_S = 0.02


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def mutex(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold the lock file exclusively. Raises Unavailable after `timeout_s`. Blocking."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(fd):
            if time.monotonic() >= deadline:
                raise Unavailable(f"another process has kept {path} locked for {timeout_s:.0f} s")
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(fd)


class Holder:
    """One registered user of the server, until `release` or the end of the process."""

    def __init__(self, directory: Path, name: str) -> None:
        """Register under the mutex; `name` is unique in `directory`."""
        self.path = directory / name
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._fd)


def alive(directory: Path) -> int:
    """How many holders live; files of dead processes are removed. Only under the mutex."""
    count = 0
    for path in sorted(directory.iterdir()):
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _try_lock(fd):
                path.unlink()
            else:
                count += 1
        finally:
            os.close(fd)
    return count
