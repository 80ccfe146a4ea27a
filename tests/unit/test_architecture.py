"""The walls: who may import whom, which files do no I/O, where SQL lives."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "node", "acs", "console")
ALLOWED = {"app": {"app"}, "node": {"app", "node"}, "acs": {"app", "acs"}, "console": {"app", "console"}}

#: Pure files: no I/O, no clock, no randomness, no logging, no settings (STYLE.md 3).
PURE = [
    "app/keys.py",
    "app/model.py",
    "app/request_kinds.py",
    "app/scopes.py",
    "app/errors.py",
    "app/names.py",
    "app/billing.py",
    "app/health.py",
    "app/placement.py",
    "app/planner.py",
    "app/routes.py",
    "app/tokens.py",
    "app/derpmap.py",
    "app/wire",
    "app/netmap",
    "app/policy",
    "app/entry/head.py",
    "app/entry/limits.py",
    "app/client/mapblob.py",
    "app/entry/hop.py",
    "app/entry/routing.py",
    "app/client/netmap.py",
    "app/client/requests.py",
    "app/simulation/mapcheck.py",
    "app/simulation/markers.py",
    "app/simulation/scenario.py",
    "app/simulation/stats.py",
    "app/fleet.py",
    "console/action.py",
    "console/actions.py",
    "console/registry",
    "console/query.py",
]
IMPURE_MODULES = {
    "asyncio", "asyncpg", "aiohttp", "httpx", "textual", "logging", "structlog", "time", "random", "secrets",
    "os", "socket", "ssl", "subprocess", "threading", "app.log", "app.settings", "app.db", "app.runtime",
}  # fmt: skip
IMPURE_CALLS = re.compile(r"\b(datetime\.now|datetime\.utcnow|open|print)\(")


def sources(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def imports(path: Path) -> set[str]:
    """Full dotted names of everything a file imports, at any depth."""
    names: set[str] = set()
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            names.update(alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}: relative import"
            names.add(item.module or "")
            names.update(f"{item.module}.{alias.name}" for alias in item.names)
    return names


def is_pure(path: Path) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(relative == entry or relative.startswith(entry + "/") for entry in PURE)


@pytest.mark.parametrize("path", sources(*PACKAGES), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_packages_import_only_what_they_may(path):
    package = path.relative_to(ROOT).parts[0]
    reached = {name.split(".")[0] for name in imports(path)} & {*PACKAGES, "tests", "bench"}
    assert reached <= ALLOWED[package], f"{path} imports {reached - ALLOWED[package]}"


@pytest.mark.parametrize(
    "path", [p for p in sources("app", "console") if is_pure(p)], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_pure_files_do_no_io(path):
    bad = {name for name in imports(path) if name in IMPURE_MODULES or name.split(".")[0] in IMPURE_MODULES}
    assert not bad, f"{path} imports {bad}"
    text = path.read_text()
    assert "await " not in text
    assert not IMPURE_CALLS.search(text)


def test_the_list_of_pure_files_names_files_that_exist():
    assert [entry for entry in PURE if not (ROOT / entry).exists()] == []


def test_sql_lives_in_one_place():
    """A statement outside app/sql would escape the tests that walk all statements.

    What makes the schema, before there is one, and the embedded server stand apart.
    """
    apart = ("app/sql/", "app/pg/", "app/db/migrate.py", "app/db/setup.py")
    statement = re.compile(r"\b(SELECT\s+.+\s+FROM|INSERT\s+INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM)\b", re.S)
    guilty = []
    for path in sources(*PACKAGES):
        if path.relative_to(ROOT).as_posix().startswith(apart):
            continue
        for item in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(item, ast.Constant)
                and isinstance(item.value, str)
                and statement.search(item.value)
            ):
                guilty.append(f"{path.relative_to(ROOT)}:{item.lineno}")
    assert guilty == []


def test_the_core_pulls_in_neither_console_nor_scheduler():
    program = (
        "import sys, app.entry.listener, app.netmap.tenant, app.client.device, app.db;"
        "bad = {'textual', 'apscheduler', 'click'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=30)


def test_commands_load_nothing_of_the_server():
    """It would make each of them a third slower."""
    code = "import node.cli, sys; print({'aiohttp', 'httpx', 'textual', 'zstandard'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


def test_nothing_reads_the_environment_but_settings_and_the_embedded_server():
    allowed = {"app/settings.py"}
    guilty = []
    for path in sources(*PACKAGES):
        relative = path.relative_to(ROOT).as_posix()
        if relative in allowed or relative.startswith("app/pg/") or relative.startswith("node/derp/"):
            continue
        if re.search(r"os\.environ|os\.getenv", path.read_text()):
            guilty.append(relative)
    # Each command hands its environment to settings.load, once.
    assert set(guilty) <= {"app/commands.py", "console/cli.py"}


def test_the_map_names_every_module_and_no_other():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", text, re.M))
    there = {path.relative_to(ROOT).as_posix() for path in sources(*PACKAGES)}
    assert named == there
