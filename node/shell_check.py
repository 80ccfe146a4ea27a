"""What `hs-node config check`, `db init` and `db check` do."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import click

from app.database import database_dsn
from app.db import migrate
from app.db.setup import Database
from app.deployment import NOISE_KEY_NAME, load_or_create_noise_key
from app.errors import ConfigError, HsError
from app.listen import reason_of, split_listen, tls_context
from app.model import DatabaseFacts
from app.output import Row, show
from app.pg import EmbeddedPostgres
from app.settings import Loaded, Settings
from node.policy_file import PolicyFile

DEFAULT = "default"


class CheckFailed(HsError):
    """Something a server would stumble over."""

    code = "check_failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried. `exit_code` is 0 when it is well."""

    what: str
    found: str
    exit_code: int = 0


async def init_database(settings: Settings) -> None:
    async with database_dsn(settings) as dsn:
        await Database.prepare(dsn)
    click.echo("roles and schema are in place")


def setup_sql() -> str:
    return migrate.print_sql()


async def check_database(settings: Settings, output: str) -> None:
    checks, _ = await _database(settings)
    show([check_row(check) for check in checks], output)
    _verdict(checks)


async def check_configuration(loaded: Loaded, output: str) -> None:
    settings = loaded.settings
    found, owner = await _database(settings)
    checks = [
        _state_dir(settings),
        *_certificate(settings),
        *_policy_file(settings),
        *found,
        *_ports(settings, owner),
    ]
    rows = [setting_row(key, value, loaded) for key, value in settings.masked().items()]
    results = [check_row(check) for check in checks]
    if output == "table":
        click.echo(f"file: {loaded.source_file or 'none'}\n")
        show(rows, output)
        click.echo()
        for warning in loaded.warnings:
            click.echo(f"warning: {warning}")
        show(results, output)
    else:
        file = None if loaded.source_file is None else str(loaded.source_file)
        show({"file": file, "settings": rows, "warnings": loaded.warnings, "checks": results}, output)
    _verdict(checks)


def _verdict(checks: list[Check]) -> None:
    """Raises CheckFailed, with the exit code of the first that failed."""
    failed = [check for check in checks if check.exit_code]
    if failed:
        error = CheckFailed(f"{', '.join(check.what for check in failed)}: see above")
        error.exit_code = failed[0].exit_code
        raise error


def setting_row(key: str, value: str, loaded: Loaded) -> Row:
    return {"key": key, "value": value, "origin": _origin(key, loaded.origins)}


def _origin(key: str, origins: dict[str, str]) -> str:
    if key == "pg_dsn" and key not in origins:
        key = "database.postgres.host"
    return origins.get(key, DEFAULT)


def check_row(check: Check) -> Row:
    return {"check": check.what, "ok": not check.exit_code, "found": check.found}


# -- what is tried ------------------------------------------------------------------------------


def _state_dir(settings: Settings) -> Check:
    """Whether this user may write there; nothing is made."""
    path = settings.state_dir
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        return Check("state_dir", f"{there} is not a directory", ConfigError.exit_code)
    if not os.access(there, os.W_OK | os.X_OK):
        return Check("state_dir", f"{there} cannot be written by this user", ConfigError.exit_code)
    return Check("state_dir", f"{path}" if there == path else f"{path}: made at the first start")


def _certificate(settings: Settings) -> list[Check]:
    if settings.tls_cert_path is None:
        return []
    return [_attempt("tls_cert_path", lambda: f"{settings.tls_cert_path}" if tls_context(settings) else "")]


def _policy_file(settings: Settings) -> list[Check]:
    path = settings.policy.file
    if path is None:
        return []
    return [_attempt("policy.path", lambda: f"{path}: {len(PolicyFile(path).read())} characters")]


def _attempt(what: str, work: Callable[[], str]) -> Check:
    try:
        return Check(what, work())
    except HsError as error:
        return Check(what, error.message, error.exit_code)


async def _awaited(what: str, work: Awaitable[str]) -> Check:
    try:
        return Check(what, await work)
    except HsError as error:
        return Check(what, error.message, error.exit_code)


async def _database(settings: Settings) -> tuple[list[Check], str | None]:
    """What can be said about the database, and which instance owns the cluster now."""
    if settings.pg_dsn is None and not EmbeddedPostgres(settings.state_dir).data_dir.exists():
        return [Check("database", "embedded PostgreSQL: made at the first start")], None
    try:
        async with database_dsn(settings) as dsn:
            facts = await Database.inspect(dsn)
            checks = [Check("database", database_text(settings, facts))]
            if facts.todo:
                checks.append(Check("schema", f"the first start makes {', '.join(facts.todo)}"))
                return checks, None
            checks.append(Check("schema", f"version {facts.schema}, up to date"))
            database = Database(dsn)
            clusters = await database.clusters(settings.cluster_id)
            owner = clusters[0].owner if clusters else None
            checks.append(Check("cluster", cluster_text(settings.cluster_id, bool(clusters), owner)))
            checks.append(await _awaited("secret_key_file", _secret(database, settings.secret_key_file)))
            return checks, owner
    except HsError as error:
        return [Check("database", error.message, error.exit_code)], None


def database_text(settings: Settings, facts: DatabaseFacts) -> str:
    kind = "embedded PostgreSQL" if settings.pg_dsn is None else "PostgreSQL"
    return f"{kind} {facts.version}, login {facts.login}"


def cluster_text(cluster_id: str, exists: bool, owner: str | None) -> str:
    if not exists:
        return f"{cluster_id}: made at the first start"
    return f"{cluster_id}: owned by {owner}" if owner else f"{cluster_id}: nobody serves it now"


async def _secret(database: Database, path: Path) -> str:
    """Raises ConfigError when the file does not open the deployment's key."""
    if await database.deployment_secret(NOISE_KEY_NAME) is None:
        return f"{path}: comes into use at the first start"
    await load_or_create_noise_key(database, path)
    return f"{path} opens the deployment's key"


def _ports(settings: Settings, owner: str | None) -> list[Check]:
    """Every address a server would listen on. Its own server's use is no fault."""
    wanted = [("listen_addr", settings.listen_addr, socket.SOCK_STREAM)]
    if not settings.internal_addr.endswith(":0"):
        wanted.append(("internal_addr", settings.internal_addr, socket.SOCK_STREAM))
    if settings.metrics_listen_addr:
        wanted.append(("metrics_listen_addr", settings.metrics_listen_addr, socket.SOCK_STREAM))
    relay = settings.derp.server
    if relay.enabled:
        wanted.append(("derp.server.listen_addr", relay.listen_addr, socket.SOCK_STREAM))
        wanted.append(("derp.server.stun_listen_addr", relay.stun_listen_addr, socket.SOCK_DGRAM))
    return [_port(key, address, kind, owner) for key, address, kind in wanted]


def _port(key: str, address: str, kind: socket.SocketKind, owner: str | None) -> Check:
    host, port = split_listen(address)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if is_here(owner):
            return Check(key, f"{address}: in use, as it should be: {owner} serves this cluster")
        return Check(key, f"{address}: {reason_of(error)}", ConfigError.exit_code)
    return Check(key, f"{address}: free")


def is_here(instance: str | None) -> bool:
    """Whether this instance (`<host>-<pid>-<random>`) is a process of this machine that lives."""
    host, _, rest = (instance or "").rpartition("-")[0].rpartition("-")
    return host == socket.gethostname() and rest.isdigit() and Path("/proc", rest).exists()
