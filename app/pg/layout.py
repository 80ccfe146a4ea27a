"""Where the embedded server keeps its things. Only `make_*` functions touch the disk.

<state dir>/pg/lock         mutex for starting and stopping
              holders/      one locked file per user of the server
              password      superuser's password, 0600, of whoever started us
              server.log    the server's own messages
              data/         the database files, of the server's account
              run/          the unix socket, unless its path would be too long
              bin-<version>/  copied programs, only when we are root
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigError

APP_DIR_NAME = "headscale-cluster"
ROOT_STATE_DIR = Path("/var/lib") / APP_DIR_NAME
#: For accounts without a home. Survives a restart of the machine, unlike /tmp.
HOMELESS_PARENT = Path("/var/tmp")  # noqa: S108 - the directory is checked for owner and mode
#: Longest usable unix socket path, bytes; the kernel's limit is 107.
SOCKET_PATH_LIMIT = 100
SOCKET_PORT = 5432
#: Where a socket goes whose natural path is too long. Not from TMPDIR: every process must agree.
ROOT_SHORT_PARENT = Path("/run")
USER_SHORT_PARENT = Path("/tmp")  # noqa: S108 - the directory is checked for owner and mode
#: pg_ctl puts paths between double quotes in a shell command.
UNSAFE_PATH_CHARACTERS = frozenset('"$`\\') | {chr(code) for code in range(32)} | {chr(127)}


def default_state_dir(environ: Mapping[str, str], uid: int) -> Path:
    """The state directory of this user: HS_STATE_DIR, else by custom. Pure.

    root: /var/lib; others: $XDG_DATA_HOME, ~/.local/share, and /var/tmp for those without a home.
    Relative values of the three variables are ignored, as the XDG specification asks.
    """
    chosen = environ.get("HS_STATE_DIR", "")
    if os.path.isabs(chosen):
        return Path(chosen)
    if uid == 0:
        return ROOT_STATE_DIR
    data_home = environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(data_home):
        return Path(data_home) / APP_DIR_NAME
    home = environ.get("HOME", "")
    if os.path.isabs(home) and home.strip("/"):
        return Path(home) / ".local" / "share" / APP_DIR_NAME
    return HOMELESS_PARENT / f"{APP_DIR_NAME}-{uid}"


def socket_path(directory: Path) -> Path:
    return directory / f".s.PGSQL.{SOCKET_PORT}"


@dataclass(frozen=True, slots=True)
class Layout:
    """All paths of one embedded server."""

    pg_dir: Path
    socket_dir: Path

    @property
    def lock(self) -> Path:
        return self.pg_dir / "lock"

    @property
    def holders(self) -> Path:
        return self.pg_dir / "holders"

    @property
    def password(self) -> Path:
        return self.pg_dir / "password"

    @property
    def log(self) -> Path:
        return self.pg_dir / "server.log"

    @property
    def data(self) -> Path:
        return self.pg_dir / "data"


def layout_of(state_dir: Path, uid: int, short_parent: Path) -> Layout:
    """The layout for `state_dir` as user `uid`. Pure, equal for every process of that user.

    `short_parent` takes the socket directory when the natural one is too long.
    """
    for character in sorted(UNSAFE_PATH_CHARACTERS & set(str(state_dir))):
        raise ConfigError(f"state_dir: {str(state_dir)!r} must not contain the character {character!r}")
    pg_dir = state_dir / "pg"
    socket_dir = pg_dir / "run"
    if len(os.fsencode(socket_path(socket_dir))) > SOCKET_PATH_LIMIT:
        digest = hashlib.sha256(os.fsencode(pg_dir)).hexdigest()[:12]
        socket_dir = short_parent / f"{APP_DIR_NAME}-{uid}-{digest}"
    return Layout(pg_dir, socket_dir)


def explain(error: OSError, path: Path) -> ConfigError:
    """A refused file operation as a setting that has to change."""
    return ConfigError(
        f"state_dir: {error.filename or path}: {error.strerror}; "
        "give a directory this user may write with HS_STATE_DIR, or use a server of your own with PG_DSN"
    )


def make_state_dir(path: Path) -> None:
    """Create the state directory and missing parents; what exists keeps its mode. Raises ConfigError.

    As root, what is created can be entered (not listed) by the server's account.
    """
    mode = 0o711 if os.geteuid() == 0 else 0o700
    try:
        missing = [p for p in (path, *path.parents) if not p.exists()]
        for directory in reversed(missing):
            make_dir(directory, mode)
        found = path.lstat()
    except OSError as error:
        raise explain(error, path) from error
    if path.parent == HOMELESS_PARENT and found.st_uid != os.geteuid():
        raise ConfigError(f"state_dir: {path} belongs to somebody else; set HS_STATE_DIR")
    if not path.is_dir():
        raise ConfigError(f"state_dir: {path} is not a directory")


def make_dir(path: Path, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Create one directory with exactly this mode and owner, if it does not exist yet."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        return
    if owner is not None:
        os.chown(path, *owner)
    path.chmod(mode)


def make_private_dir(path: Path, owner: tuple[int, int]) -> None:
    """A 0700 directory of `owner`, refused when somebody else made it first. Raises ConfigError."""
    try:
        make_dir(path, 0o700, owner)
        found = path.lstat()
    except OSError as error:
        raise explain(error, path) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner[0] or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError(f"{path} must be a directory of user id {owner[0]} with mode 0700; remove it")


def blocked_parent(path: Path, uid: int, gid: int) -> Path | None:
    """The first directory on the way to `path` that this account may not enter."""
    for directory in [*reversed(path.parents), path]:
        found = directory.stat()
        bit = stat.S_IXUSR if found.st_uid == uid else stat.S_IXGRP if found.st_gid == gid else stat.S_IXOTH
        if not found.st_mode & bit:
            return directory
    return None
