"""A program on a terminal of its own, for tests of what an operator sees."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping

from tests.node.support import ROOT, eventually

#: What a program says that takes the whole screen, and when it gives it back.
FULL_SCREEN, SCREEN_BACK = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """A terminal of 80x24 with a program on it; `text` is all it was sent, without escape sequences."""

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            command,
            # The size is the terminal's, not a variable's.
            env={**env, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""},
            cwd=ROOT,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._received = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self._received += os.read(self._master, 65536)
            except OSError:  # nobody has the terminal any more
                return

    @property
    def text(self) -> str:
        return re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|[PX^_\]].*?(\x1b\\|\x07)|.)", "", self.raw, flags=re.S)

    @property
    def raw(self) -> str:
        return self._received.decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    async def shows(self, text: str, deadline_s: float) -> None:
        async def seen() -> bool:
            assert self.process.poll() is None, self.text
            return text in self.text

        await eventually(seen, f"the terminal shows {text!r}", deadline_s)

    def vanish(self) -> None:
        """The window is closed. Nobody gets a signal: it is no session's controlling terminal."""
        os.close(self._master)
        self._master = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._master >= 0:
            self._reader.join(10)
            os.close(self._master)
