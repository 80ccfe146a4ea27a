"""What the demo says while it works."""

from __future__ import annotations

import sys
import time
from contextlib import suppress


class Progress:
    """Lines on stderr with the seconds since the start; silent while something else owns the terminal."""

    def __init__(self) -> None:
        self._start_s = time.monotonic()
        self.quiet = False

    def say(self, text: str) -> None:
        if self.quiet:
            return
        with suppress(OSError):  # the terminal may be gone, the work is not
            print(f"[{time.monotonic() - self._start_s:5.1f} s] {text}", file=sys.stderr, flush=True)
