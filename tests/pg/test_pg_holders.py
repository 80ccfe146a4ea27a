"""Reference counting: the dead do not count, the living do, from whatever process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import Unavailable
from app.pg.holders import Holder, alive, mutex

OTHER_PROCESS = """
import sys
from pathlib import Path
from app.pg.holders import Holder
holder = Holder(Path(sys.argv[1]), "other")
print("held", flush=True)
sys.stdin.read()
"""


def test_counts_holders_of_this_process(tmp_path: Path) -> None:
    first, second = Holder(tmp_path, "1"), Holder(tmp_path, "2")
    assert alive(tmp_path) == 2
    first.release()
    assert alive(tmp_path) == 1
    second.release()
    assert alive(tmp_path) == 0


def test_killed_process_does_not_count(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert alive(tmp_path) == 1
        other.kill()
        other.wait(timeout=30)
        assert alive(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_child_program_does_not_inherit_the_hold(tmp_path: Path) -> None:
    holder = Holder(tmp_path, "1")
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, close_fds=False) as child:
        holder.release()
        Path(tmp_path, "1").touch()
        assert alive(tmp_path) == 0
        assert child.poll() is None


def test_mutex_excludes_and_has_a_deadline(tmp_path: Path) -> None:
    with (
        mutex(tmp_path / "lock", 1.0),
        pytest.raises(Unavailable, match="lock"),
        mutex(tmp_path / "lock", 0.05),
    ):
        pytest.fail("two holders of one mutex")
    with mutex(tmp_path / "lock", 1.0):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600


def test_mutex_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"), mutex(tmp_path / "lock", 1.0):
        pytest.fail("followed a link")
