"""Where the embedded server lives, for every kind of user and environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.pg.layout import (
    SOCKET_PATH_LIMIT,
    UNSAFE_PATH_CHARACTERS,
    blocked_parent,
    default_state_dir,
    layout_of,
    make_private_dir,
    make_state_dir,
    socket_path,
)

USER = 1000


@pytest.mark.parametrize(
    ("environ", "uid", "expected"),
    [
        ({}, 0, "/var/lib/headscale-cluster"),
        ({"HOME": "/root", "XDG_DATA_HOME": "/root/data"}, 0, "/var/lib/headscale-cluster"),
        ({"HS_STATE_DIR": "/srv/hs"}, 0, "/srv/hs"),
        ({"HS_STATE_DIR": "/srv/hs", "HOME": "/home/a"}, USER, "/srv/hs"),
        ({"HS_STATE_DIR": "relative", "HOME": "/home/a"}, USER, "/home/a/.local/share/headscale-cluster"),
        ({"HOME": "/home/a"}, USER, "/home/a/.local/share/headscale-cluster"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": "/data/a"}, USER, "/data/a/headscale-cluster"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": ""}, USER, "/home/a/.local/share/headscale-cluster"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": "here"}, USER, "/home/a/.local/share/headscale-cluster"),
        ({"XDG_DATA_HOME": "/data/a"}, USER, "/data/a/headscale-cluster"),
        ({}, USER, "/var/tmp/headscale-cluster-1000"),
        ({"HOME": ""}, USER, "/var/tmp/headscale-cluster-1000"),
        ({"HOME": "/"}, USER, "/var/tmp/headscale-cluster-1000"),
        ({"HOME": "home"}, USER, "/var/tmp/headscale-cluster-1000"),
    ],
)
def test_default_state_dir(environ: dict[str, str], uid: int, expected: str) -> None:
    assert default_state_dir(environ, uid) == Path(expected)


@pytest.mark.parametrize("length", [10, 60, 79, 80, 81, 100, 200])
def test_socket_path_stays_short(length: int) -> None:
    state_dir = Path("/" + "d" * (length - 1))
    layout = layout_of(state_dir, USER, Path("/tmp"))
    assert len(os.fsencode(socket_path(layout.socket_dir))) <= SOCKET_PATH_LIMIT
    natural = len(os.fsencode(socket_path(state_dir / "pg" / "run"))) <= SOCKET_PATH_LIMIT
    assert (layout.socket_dir == state_dir / "pg" / "run") is natural


def test_socket_limit_counts_bytes_not_letters() -> None:
    layout = layout_of(Path("/" + "ä" * 45), USER, Path("/run"))
    assert layout.socket_dir.parent == Path("/run")


def test_short_socket_dirs_differ_by_place_and_user() -> None:
    long = "/" + "d" * 150
    found = {layout_of(Path(long + end), uid, Path("/tmp")).socket_dir for end in "ab" for uid in (1, 2)}
    assert len(found) == 4


@pytest.mark.parametrize("character", sorted(UNSAFE_PATH_CHARACTERS))
def test_path_that_a_shell_would_read_is_refused(character: str) -> None:
    with pytest.raises(ConfigError, match="state_dir"):
        layout_of(Path(f"/srv/a{character}b"), USER, Path("/tmp"))


def test_make_state_dir_leaves_existing_modes_alone(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir(mode=0o750)
    make_state_dir(parent / "new" / "state")
    make_state_dir(parent / "new" / "state")
    assert parent.stat().st_mode & 0o777 == 0o750
    assert (parent / "new" / "state").stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)


def test_make_state_dir_ignores_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        make_state_dir(tmp_path / "state")
    finally:
        os.umask(before)
    assert (tmp_path / "state").stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)


def test_state_dir_below_a_file_names_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"state_dir: .*file.*HS_STATE_DIR"):
        make_state_dir(tmp_path / "file" / "state")


def test_state_dir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        make_state_dir(tmp_path / "file")


def test_prepared_socket_dir_of_somebody_else_is_refused(tmp_path: Path) -> None:
    me = (os.geteuid(), os.getegid())
    make_private_dir(tmp_path / "mine", me)
    make_private_dir(tmp_path / "mine", me)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("open", "link"):
        with pytest.raises(ConfigError, match=name):
            make_private_dir(tmp_path / name, me)
    with pytest.raises(ConfigError, match="mine"):
        make_private_dir(tmp_path / "mine", (me[0] + 1, me[1]))


def test_blocked_parent_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    tmp_path.chmod(0o711)
    closed.chmod(0o700)
    stranger = 54321
    assert blocked_parent(closed / "inner", stranger, stranger) is not None
    assert blocked_parent(Path("/"), stranger, stranger) is None
    assert blocked_parent(closed, os.geteuid(), os.getegid()) in (None, *tmp_path.parents)
