"""What a forked process does to be a command. A module of its own: the new process imports it and no more."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path


def become(
    program: str, arguments: tuple[str, ...], env: dict[str, str], directory: str, files: list[Path]
) -> None:
    """In the new process: what a shell sets up for a command, then the command."""
    for number, file in enumerate(files):
        os.dup2(os.open(file, os.O_RDWR), number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(directory)
    module = importlib.import_module(program)
    sys.argv = [str(module.__file__), *arguments]
    module.main()
