"""The settings as records: names, defaults, checks of single values.

Names and nesting are headscale's where it has the setting. Instances come from `app.settings.load`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from app import settings_values as values

ENV_PREFIX = "HS_"
MIN_EPHEMERAL_S = 65.0
SECRET_ENDINGS = ("pass", "password", "secret", "dsn", "token", "api_key")
#: A whole group written as one text may be an address with its password.
SECRET_PARENTS = ("database", "database.postgres")
LONGEST_SHOWN_VALUE = 120

Seconds = Annotated[float, BeforeValidator(values.parse_duration)]
Listen = Annotated[str, AfterValidator(values.check_listen)]
ListenOrOff = Annotated[str, AfterValidator(values.check_listen_or_off)]
Internal = Annotated[str, AfterValidator(values.check_internal)]
Url = Annotated[str, AfterValidator(values.check_http_url)]
Domain = Annotated[str, AfterValidator(values.check_domain)]
Address = Annotated[str, AfterValidator(values.check_address)]
Texts = BeforeValidator(values.split_list)
LogLevel = Literal["debug", "info", "warning", "error"]
_LEVELS = {"trace": "debug", "warn": "warning", "fatal": "error", "panic": "error", "disabled": "error"}


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PostgresSettings(_Group):
    """headscale's separate keys of one PostgreSQL server; `pg_dsn` says the same in one line."""

    host: str = Field("", description="Name, address, or directory of a unix socket.")
    port: int = Field(5432, ge=1, le=65535)
    name: str = Field("headscale", description="Name of the database.")
    user: str = ""
    password: str = Field("", alias="pass", repr=False)
    ssl: str = Field("disable", description="true, false, or one of libpq's sslmode words.")
    max_open_conns: int = Field(10, ge=2, le=1000, description="Connections in this process's pool.")
    conn_max_idle_time_secs: int = Field(
        3600, ge=0, description="Idle connections end after this, 0 = never."
    )

    @field_validator("ssl", mode="before")
    @classmethod
    def _ssl(cls, value: Any) -> Any:
        text = str(value).lower()
        mode = {"true": "require", "false": "disable", "": "disable"}.get(text, text)
        if mode not in values.SSL_MODES:
            raise ValueError(f"must be true, false or one of {', '.join(values.SSL_MODES)}")
        return mode


class DatabaseSettings(_Group):
    type: Literal["postgres", "sqlite", "sqlite3"] = Field("postgres", description="Always PostgreSQL here.")
    postgres: PostgresSettings = PostgresSettings()


class DerpServerSettings(_Group):
    """The relay and STUN server of this process."""

    enabled: bool = Field(True, description="Without any region clients never connect.")
    region_id: int = Field(0, ge=0, le=65535, description="0 = a free one is taken for good.")
    region_code: str = Field("", max_length=64, description="Empty = from the cluster id.")
    region_name: str = Field("", max_length=128)
    verify_clients: bool = Field(True, description="Relay for this deployment's devices only.")
    listen_addr: Listen = Field("0.0.0.0:3340", description="The relay's TLS port; port 0 = any.")
    stun_listen_addr: Listen = Field("0.0.0.0:3478", description="STUN, UDP.")
    hostname: str = Field("", description="What clients dial; empty = the host of server_url.")
    ipv4: Address = ""
    ipv6: Address = ""


class DerpSettings(_Group):
    server: DerpServerSettings = DerpServerSettings()
    urls: Annotated[tuple[Url, ...], Texts] = Field(
        (), description="DERP maps to merge; DERP_MAP_URL adds one."
    )
    paths: Annotated[tuple[Path, ...], Texts] = Field((), description="DERP map files to merge.")
    auto_update_enabled: bool = True
    update_frequency: Seconds = Field(3 * 3600.0, ge=60.0)


class EphemeralSettings(_Group):
    inactivity_timeout: Seconds = Field(120.0, gt=MIN_EPHEMERAL_S, description="Then the device is deleted.")


class NodeSettings(_Group):
    expiry: Seconds = Field(0.0, description="Key life of untagged devices, 0 = no end.")
    ephemeral: EphemeralSettings = EphemeralSettings()


class NameserverSettings(_Group):
    global_: Annotated[tuple[Annotated[str, AfterValidator(values.check_nameserver)], ...], Texts] = Field(
        (), alias="global", description="Addresses or DNS-over-HTTPS URLs."
    )


class DnsSettings(_Group):
    magic_dns: bool = True
    base_domain: Domain = Field("hs.internal", description="Devices are <name>.<base_domain>.")
    override_local_dns: bool = Field(False, description="Default: true when global servers are given.")
    nameservers: NameserverSettings = NameserverSettings()
    search_domains: Annotated[tuple[Domain, ...], Texts] = ()

    @model_validator(mode="after")
    def _override(self) -> Self:
        servers = bool(self.nameservers.global_)
        if "override_local_dns" not in self.model_fields_set:
            self.__dict__["override_local_dns"] = servers
        return self


class PolicySettings(_Group):
    """Where the access policy of the home tenant lies; those of other tenants are in the database."""

    mode: Literal["file", "database"] = Field(
        "database", description="Default: file when policy.path is set."
    )
    path: Path | None = Field(None, description="Policy file (HuJSON), read at start and on SIGHUP.")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, given: Any) -> Any:
        return {k: v for k, v in given.items() if v != ""} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _mode(self) -> Self:
        # headscale's default is the file: one that is named must never be left out without a word.
        if "mode" not in self.model_fields_set and self.path is not None:
            self.__dict__["mode"] = "file"
        return self

    @property
    def file(self) -> Path | None:
        """The file that holds the home tenant's policy, None when the database does."""
        return self.path if self.mode == "file" else None


class LogSettings(_Group):
    level: LogLevel = "info"
    format: Literal["text", "json"] = "text"

    @field_validator("level", mode="before")
    @classmethod
    def _level(cls, value: Any) -> Any:
        return _LEVELS.get(value.lower(), value.lower()) if isinstance(value, str) else value


class TimingSettings(_Group):
    """Ours: how fast trouble is noticed."""

    lease_ttl: Seconds = Field(5.0, ge=2.0, le=60.0, description="A silent owner is replaced after this.")
    offline_grace: Seconds = Field(10.0, le=300.0, description="A lost device counts as online this long.")
    max_stale: Seconds = Field(
        3600.0, ge=60.0, description="An owner without database ends all streams then."
    )


def _default_url(listen_addr: str) -> str:
    host, port = values.split_host_port(listen_addr)
    host = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class RebalanceSettings(_Group):
    """How hs-acs moves tenants, and when it does so by itself."""

    wave: int = Field(10, ge=1, le=1000, description="Tenants moved at a time.")
    pause: Seconds = Field(2.0, ge=0.0, le=3600.0, description="Between two waves.")
    settle: Seconds = Field(
        20.0, ge=0.0, le=3600.0, description="From the last wave to the count of who is back."
    )
    band: float = Field(0.1, ge=0.0, le=1.0, description="How much fuller than the mean a cluster may be.")
    mode: Literal["off", "propose", "apply"] = Field("off", description="What is done without being asked.")
    hours: Annotated[str, AfterValidator(values.check_hours)] = Field(
        "", description="When plans are applied without being asked, in UTC: 22-6. Empty = always."
    )
    devices_per_day: int = Field(1000, ge=0, description="Moved without being asked, at most.")
    evacuate_after: Seconds = Field(
        0.0, ge=0.0, description="A cluster without owner and standby is emptied after this; 0 = never."
    )


class AcsSettings(_Group):
    """hs-acs, and the `hs-acs` commands that talk to it."""

    listen_addr: Listen = Field("127.0.0.1:8180", description="Admin API, join pages, and entry for clients.")
    metrics_listen_addr: ListenOrOff = Field("127.0.0.1:9190", description="Empty = no metrics.")
    url: Annotated[str, AfterValidator(values.check_server_url)] = Field(
        "", description="Where `hs-acs` commands find the API; default http://<acs.listen_addr>."
    )
    login_server: Annotated[str, AfterValidator(values.check_server_url)] = Field(
        "", description="What joiners are told to dial; default: the URL of their tenant's cluster."
    )
    token: str = Field("", repr=False, description="API token of `hs-acs` commands.")
    auto_admit: bool = Field(False, description="New clusters get tenants without `hs-acs clusters admit`.")
    deleted_grace: Seconds = Field(
        30 * 86400.0, ge=0.0, description="A deleted tenant can be restored for so long, then it is purged."
    )
    requests_per_minute: int = Field(600, ge=1, le=1_000_000, description="Of one token.")
    rebalance: RebalanceSettings = RebalanceSettings()

    @model_validator(mode="after")
    def _derive(self) -> Self:
        if not self.url:
            self.__dict__["url"] = _default_url(self.listen_addr)
        return self


class ConsoleSettings(_Group):
    """How hs-console looks and is handled."""

    keys: Annotated[tuple[str, ...], Texts] = Field(
        (), description="Other keys for its actions, such as device.expire=E; `?` names them."
    )
    theme: str = Field("hs-safe", description="hs-safe, one of Textual's, or one of console.themes.")
    themes: Path | None = Field(None, description="TOML file with a table of colours for each theme.")

    @field_validator("themes", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value


class Settings(BaseSettings):
    """Every setting of the product; see `load`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENV_PREFIX, env_nested_delimiter="__"
    )

    state_dir: Path = Field(description="Keys and the embedded database.")
    secret_key_file: Path = Field(
        Path(), description="Seals the deployment key; default <state_dir>/secret.key."
    )
    server_url: Annotated[str, AfterValidator(values.check_server_url)] = Field(
        "", description="Login URL of the clients; default http://<listen_addr>."
    )
    listen_addr: Listen = "127.0.0.1:8080"
    metrics_listen_addr: ListenOrOff = Field("127.0.0.1:9090", description="Empty = no metrics.")
    internal_addr: Internal = Field(
        "127.0.0.1:0", description="For the cluster's other instances; they relay clients to its owner."
    )
    advertise_addr: Address = Field(
        "", description="Own IP at which clients reach the ports of server_url; for their fail-over."
    )
    cluster_id: Annotated[str, BeforeValidator(values.parse_cluster_id)] = "default"
    pg_dsn: Annotated[str, AfterValidator(values.check_dsn)] | None = Field(
        None, repr=False, description="PostgreSQL server, None = the embedded one."
    )
    trusted_proxies: Annotated[tuple[Annotated[str, AfterValidator(values.check_proxy)], ...], Texts] = Field(
        (), description="Reverse proxies whose X-Forwarded-For counts."
    )
    tls_cert_path: Path | None = None
    tls_key_path: Path | None = None
    database: DatabaseSettings = DatabaseSettings()
    derp: DerpSettings = DerpSettings()
    node: NodeSettings = NodeSettings()
    dns: DnsSettings = DnsSettings()
    policy: PolicySettings = PolicySettings()
    acs: AcsSettings = AcsSettings()
    console: ConsoleSettings = ConsoleSettings()
    log: LogSettings = LogSettings()
    timing: TimingSettings = TimingSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed: `load` merges its sources itself, to know where each value is from."""
        return (init_settings,)

    @field_validator("pg_dsn", "tls_cert_path", "tls_key_path", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @model_validator(mode="after")
    def _derive(self) -> Self:
        server = self.database.postgres
        if self.secret_key_file == Path():
            self.__dict__["secret_key_file"] = self.state_dir / "secret.key"
        if not self.server_url:
            self.__dict__["server_url"] = _default_url(self.listen_addr)
        if self.pg_dsn is None and self.database.type == "postgres" and server.host:
            dsn = values.make_dsn(
                server.host, server.port, server.name, server.user, server.password, server.ssl
            )
            self.__dict__["pg_dsn"] = dsn
        return self

    def masked(self) -> dict[str, str]:
        """Dotted keys and their values for display, without secrets."""
        shown = {key: show(key, value) for key, value in leaves(self.model_dump(mode="json", by_alias=True))}
        if self.pg_dsn is not None:
            shown["pg_dsn"] = values.mask_dsn(self.pg_dsn)
        return shown


def leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def show(key: str, value: Any) -> str:
    """A value for people, shortened, without secrets, also where the key is misspelt."""
    if value and (key.endswith(SECRET_ENDINGS) or (isinstance(value, str) and key in SECRET_PARENTS)):
        return values.HIDDEN
    text = values.mask_urls(repr(value) if isinstance(value, str) else str(value))
    return text if len(text) <= LONGEST_SHOWN_VALUE else text[:LONGEST_SHOWN_VALUE] + "..."


def _fields(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted keys of a model, and whether each is a group."""
    for name, field in model.model_fields.items():
        key = above + (field.alias or name)
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield key, True
            yield from _fields(inner, key + ".")
        else:
            yield key, False


FIELD_KEYS = frozenset(key for key, group in _fields(Settings) if not group)
FIELD_GROUPS = frozenset(key for key, group in _fields(Settings) if group)
