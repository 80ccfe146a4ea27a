"""All settings, one object, built once by `load` and passed down by part.

Names and nesting are headscale's where it has the setting. Order: command line, environment
(`HS_` and `__` for nesting, and the original's CLUSTER_ID, PG_DSN, DERP_MAP_URL), file, defaults.
Nothing else in the product reads the environment for settings.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from app import config_file
from app import settings_values as values
from app.errors import ConfigError
from app.headscale_keys import FOREIGN_KEYS
from app.pg.layout import default_state_dir
from app.settings_model import ENV_PREFIX, FIELD_GROUPS, FIELD_KEYS, SECRET_ENDINGS, Settings, leaves, show

__all__ = ["Loaded", "Settings", "load"]

CONFIG_VARIABLE = "HS_CONFIG"
#: The original's variables and the keys they set.
ORIGINAL_VARIABLES = {"CLUSTER_ID": "cluster_id", "PG_DSN": "pg_dsn"}
DERP_VARIABLE = "DERP_MAP_URL"
#: Set for the tests, not for us.
TEST_PREFIX = "HS_TEST_"
#: Relative values count from the configuration file's directory.
PATH_KEYS = frozenset(
    {
        "state_dir",
        "secret_key_file",
        "tls_cert_path",
        "tls_key_path",
        "derp.paths",
        "policy.path",
        "console.themes",
    }
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, the file they are from, what the operator should know about them, and origins.

    `origins`: dotted keys that were given, and the file or variable each value is from.
    """

    settings: Settings
    source_file: Path | None
    warnings: list[str]
    origins: dict[str, str]


class _Environment(EnvSettingsSource):
    """pydantic's reading of the environment, but of a given one, and lists with commas too."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name.lower(): value for name, value in environ.items()}
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._environ

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        return super().decode_complex_value(field_name, field, value) if value[:1] in ("[", "{") else value


def load(
    argv_config: str | None,
    environ: Mapping[str, str],
    cwd: Path,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Settings from command line, environment and file. `overrides` is nested like the file.

    Raises ConfigError that names every wrong key with its value, where it is from and why.
    """
    return _Loading(environ, cwd).run(argv_config, dict(overrides or {}))


class _Loading:
    """One call of `load`: collects problems and warnings on its way."""

    def __init__(self, environ: Mapping[str, str], cwd: Path) -> None:
        self.environ = environ
        self.cwd = cwd
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.origin: dict[str, str] = {}

    def run(self, argv_config: str | None, overrides: dict[str, Any]) -> Loaded:
        given = argv_config or self.environ.get(CONFIG_VARIABLE)
        path = config_file.find(given, self.environ.get("HOME", ""), self.cwd)
        merged: dict[str, Any] = {"state_dir": default_state_dir(self.environ, os.geteuid())}
        if path is not None:
            found = self._settle(config_file.read(path), str(path))
            self._take(merged, found, path.parent, lambda key: str(path))
        self._take(merged, self._from_environment(), self.cwd, self._variable)
        self._take(merged, self._settle(overrides, "command line"), self.cwd, lambda key: "command line")
        if self.environ.get(DERP_VARIABLE):
            derp = merged.setdefault("derp", {})
            derp["urls"] = [*values.split_list(derp.get("urls", [])), self.environ[DERP_VARIABLE]]
            self.origin["derp.urls"] = DERP_VARIABLE
        settings = self._build(merged)
        if self.problems or settings is None:
            raise ConfigError("\n".join(self.problems), code="config", problems=self.problems)
        self._advise(settings, merged)
        return Loaded(settings, path, self.warnings, self.origin)

    def _complain(self, key: str, value: Any, reason: str) -> None:
        where = self.origin.get(key) or next(
            (origin for known, origin in self.origin.items() if known.startswith(key + ".")), "not set"
        )
        self.problems.append(f"{key}: {show(key, value)} ({where}): {reason}")

    def _take(self, merged: dict[str, Any], found: dict[str, Any], base: Path, origin: Any) -> None:
        for key, value in leaves(found):
            self.origin[key] = origin(key)
            *groups, last = key.split(".")
            into = merged
            for group in groups:
                inner = into.get(group)
                if not isinstance(inner, dict):
                    inner = into[group] = {}
                into = inner
            into[last] = _resolve(value, base) if key in PATH_KEYS else value

    def _variable(self, key: str) -> str:
        """The environment variable that set this key."""
        ours = ENV_PREFIX + key.upper().replace(".", "__")
        originals = [name for name, known in ORIGINAL_VARIABLES.items() if known == key]
        return ours if ours in self.environ or not originals else originals[0]

    def _settle(self, found: Mapping[Any, Any], origin: str, above: str = "") -> dict[str, Any]:
        """Without keys that are headscale's only, or nobody's: those are warned about or refused."""
        kept: dict[str, Any] = {}
        for name, value in found.items():
            key = f"{above}{name}"
            foreign = FOREIGN_KEYS.get(key)
            if foreign is not None:
                if value is None or value in foreign.quiet:
                    continue
                if foreign.refused:
                    self.origin[key] = origin
                    self._complain(key, value, foreign.advice)
                else:
                    self.warnings.append(f"{key}: {foreign.advice}")
            elif key == "ephemeral_node_inactivity_timeout":
                self._old_timeout(kept, found, value)
            elif key in GROUP_KEYS and isinstance(value, Mapping):
                inner = self._settle(value, origin, key + ".")
                if key in FIELD_GROUPS:
                    kept[str(name)] = _merge(kept.get(str(name), {}), inner)
            elif key in FIELD_GROUPS or key in FIELD_KEYS:
                if value is not None:
                    kept[str(name)] = value
            elif key not in GROUP_KEYS or value is not None:
                self.origin[key] = origin
                secret = _nearest(key).endswith(SECRET_ENDINGS)
                self._complain(key, values.HIDDEN if secret else value, _unknown(key))
        return kept

    def _old_timeout(self, kept: dict[str, Any], found: Mapping[Any, Any], value: Any) -> None:
        self.warnings.append(
            "ephemeral_node_inactivity_timeout: old name; write node.ephemeral.inactivity_timeout"
        )
        new = found.get("node")
        if not (isinstance(new, Mapping) and isinstance(new.get("ephemeral"), Mapping)):
            kept["node"] = _merge(kept.get("node", {}), {"ephemeral": {"inactivity_timeout": value}})

    def _from_environment(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for variable, key in ORIGINAL_VARIABLES.items():
            if self.environ.get(variable):
                found[key] = self.environ[variable]
        try:
            found |= _Environment(self.environ)()
        except ValueError as error:
            self.problems.append(f"environment: {error}: {error.__cause__}")
        for variable in sorted(self.environ):
            key = variable.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            if variable.startswith("HEADSCALE_"):
                self.warnings.append(
                    f"{variable}: ignored; the prefix is {ENV_PREFIX} here, with __ for nesting"
                )
            elif not variable.startswith(ENV_PREFIX) or variable.startswith((TEST_PREFIX, CONFIG_VARIABLE)):
                continue
            elif key in FOREIGN_KEYS:
                self.warnings.append(f"{variable}: {FOREIGN_KEYS[key].advice}")
            elif key not in FIELD_KEYS | FIELD_GROUPS:
                self.warnings.append(f"{variable}: ignored; {_unknown(key)}")
        return {key: value for key, value in found.items() if not isinstance(value, dict)} | {
            key: self._known(key, value) for key, value in found.items() if isinstance(value, dict)
        }

    def _known(self, group: str, found: dict[str, Any]) -> dict[str, Any]:
        """A group from the environment without names nobody knows; they are in the warnings."""
        kept = {}
        for name, value in found.items():
            key = f"{group}.{name}"
            if isinstance(value, dict) and key in FIELD_GROUPS:
                kept[name] = self._known(key, value)
            elif key in FIELD_KEYS:
                kept[name] = value
        return kept

    def _build(self, merged: dict[str, Any]) -> Settings | None:
        try:
            settings = Settings(**merged)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                path = [part for part in problem["loc"] if isinstance(part, str)]
                cause = problem.get("ctx", {}).get("error")
                given = _at(merged, path)
                value = problem["input"] if isinstance(given, list | dict | None) else given
                self._complain(".".join(path), value, str(cause) if cause else problem["msg"])
            return None
        for key, value, reason in _conflicts(settings):
            self._complain(key, value, reason)
        return settings

    def _advise(self, settings: Settings, merged: dict[str, Any]) -> None:
        if merged.get("server_url") == values.PLACEHOLDER_URL:
            self.warnings.append(
                f"server_url: {values.PLACEHOLDER_URL} is a placeholder; taking {settings.server_url}"
            )
        if trap := values.login_url_trap(settings.server_url):
            self.warnings.append(f"server_url: {settings.server_url}: {trap}")
        login_server = settings.acs.login_server
        if login_server and (trap := values.login_url_trap(login_server)):
            self.warnings.append(f"acs.login_server: {login_server}: {trap}")
        if settings.database.type != "postgres" and settings.pg_dsn is None:
            self.warnings.append(
                "database.type: there is no SQLite here; the embedded PostgreSQL is used, data of a SQLite "
                "file is not taken over; write postgres, or set pg_dsn"
            )
        if "pg_dsn" in merged and self.origin.get("database.postgres.host"):
            self.warnings.append("database.postgres: not used, since pg_dsn is set")
        # headscale's own example says `path: ""` and means no policy.
        if settings.policy.mode == "file" and "path" not in merged["policy"]:
            self.warnings.append("policy.mode: file without policy.path: policies are kept in the database")
        if settings.policy.mode == "database" and settings.policy.path is not None:
            self.warnings.append("policy.path: this file is NOT applied, since policy.mode is database")


def _conflicts(settings: Settings) -> Iterator[tuple[str, Any, str]]:
    """Settings that are fine alone and wrong together."""
    host = urlsplit(settings.server_url).hostname or ""
    base = settings.dns.base_domain
    if host == base or host.endswith("." + base):
        yield (
            "dns.base_domain",
            base,
            f"must not contain the host of server_url, {host}: clients would look for it inside the tailnet",
        )
    if settings.dns.override_local_dns and not settings.dns.nameservers.global_:
        yield "dns.override_local_dns", True, "needs at least one server in dns.nameservers.global"
    if (settings.tls_cert_path is None) is not (settings.tls_key_path is None):
        missing = "tls_key_path" if settings.tls_key_path is None else "tls_cert_path"
        yield missing, "", "must be set too: TLS needs the certificate and its key"
    server = settings.database.postgres
    if not server.host and (server.user or server.password):
        yield "database.postgres.host", "", "is needed with the other database.postgres keys"


def _at(tree: Any, path: list[str]) -> Any:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def _resolve(value: Any, base: Path) -> Any:
    if isinstance(value, list):
        return [_resolve(item, base) for item in value]
    return str(base / value) if isinstance(value, str) and value else value


def _merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    both = {
        key: _merge(low[key], high[key]) for key in low.keys() & high.keys() if isinstance(high[key], dict)
    }
    return low | high | both


def _nearest(key: str) -> str:
    """The known key most like this one, or the empty text."""
    return next(iter(difflib.get_close_matches(key, sorted(FIELD_KEYS | FOREIGN_KEYS.keys()), n=1)), "")


def _unknown(key: str) -> str:
    near = _nearest(key)
    return "unknown key" + (f"; did you mean {near}?" if near else "")


#: Everything that has keys below it, ours or headscale's.
GROUP_KEYS = FIELD_GROUPS | {
    ".".join(parts[:depth])
    for parts in (key.split(".") for key in FOREIGN_KEYS)
    for depth in range(1, len(parts))
}
