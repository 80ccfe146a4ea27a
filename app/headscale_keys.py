"""headscale's configuration keys that are not settings of ours: warned about, or refused. Pure.

From headscale 0.26 to 0.30 (hscontrol/types/config.go, config-example.yaml). Keys that are honoured
are fields in app.settings and do not stand here. An entry covers everything below its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class _Anything:
    """Equal to every value: such a key has no effect here, whatever it says."""

    def __contains__(self, value: object) -> bool:
        return True


ANYTHING = _Anything()
NOTHING: tuple[object, ...] = ("", False, [], {}, 0)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """What becomes of a key: nothing to say about `quiet` values, else `advice` as warning or refusal."""

    advice: str
    quiet: Any = NOTHING
    refused: bool = False


def _later(what: str, instead: str, quiet: Any = NOTHING) -> ForeignKey:
    return ForeignKey(f"{what} are not part of this release; {instead}", quiet)


def _removed(instead: str) -> ForeignKey:
    return ForeignKey(f"headscale removed this key; {instead}", quiet=(), refused=True)


def _whole_range(prefix: str) -> ForeignKey:
    advice = f"each tenant has the whole range {prefix} for itself, other ranges are not given out; remove it"
    return ForeignKey(advice, quiet=("", prefix), refused=True)


_TUNED = ForeignKey("has no effect: changes are batched by load here; remove it", quiet=())
_GRPC = "has no effect: there is no gRPC; use the shell commands on a host that reaches the database"
_ACME = "has no effect: certificates from ACME are not part of this release"

FOREIGN_KEYS: dict[str, ForeignKey] = {
    "noise": ForeignKey(
        "the deployment's Noise key lies sealed in the database, shared by all its processes; this file is "
        "not read, so devices of another server have to log in again",
        quiet=({}, {"private_key_path": ""}),
    ),
    "prefixes.v4": _whole_range("100.64.0.0/10"),
    "prefixes.v6": _whole_range("fd7a:115c:a1e0::/48"),
    "prefixes.allocation": ForeignKey("addresses are given in sequence; remove it", ("", "sequential")),
    "derp.server.private_key_path": ForeignKey("has no effect: the relay makes its own key", ANYTHING),
    "derp.server.automatically_add_embedded_derp_region": ForeignKey(
        "has no effect: an enabled relay is always in the map; use derp.server.enabled", (True,)
    ),
    "disable_check_updates": ForeignKey("has no effect: nothing looks for updates", ANYTHING),
    "node.routes": _later("health probes of subnet routers", "remove it"),
    "preauth_keys": _later("retention times of revoked keys", "remove it"),
    "database.debug": ForeignKey("has no effect: use log.level: debug"),
    "database.gorm": ForeignKey("has no effect: no gorm here", ANYTHING),
    "database.sqlite": ForeignKey("has no effect: data lies in PostgreSQL", ANYTHING),
    "database.postgres.max_idle_conns": ForeignKey(
        "has no effect: idle connections end after database.postgres.conn_max_idle_time_secs", (0, 10)
    ),
    "acme_url": ForeignKey(_ACME, ("", "https://acme-v02.api.letsencrypt.org/directory")),
    "acme_email": ForeignKey(_ACME),
    "tls_letsencrypt_hostname": ForeignKey(
        "certificates from ACME are not part of this release; set tls_cert_path and tls_key_path, "
        "or let a reverse proxy do TLS",
        refused=True,
    ),
    "tls_letsencrypt_cache_dir": ForeignKey(_ACME, ANYTHING),
    "tls_letsencrypt_challenge_type": ForeignKey(_ACME, ANYTHING),
    "tls_letsencrypt_listen": ForeignKey(_ACME, ANYTHING),
    "dns.nameservers.split": _later("split DNS servers", "use dns.nameservers.global"),
    "dns.extra_records": _later("extra DNS records", "remove it"),
    "dns.extra_records_path": _later("extra DNS records", "remove it"),
    "unix_socket": ForeignKey("has no effect: the shell commands talk to the database", ANYTHING),
    "unix_socket_permission": ForeignKey("has no effect: the shell commands talk to the database", ANYTHING),
    "grpc_listen_addr": ForeignKey(_GRPC, ("", "127.0.0.1:50443")),
    "grpc_allow_insecure": ForeignKey(_GRPC),
    "oidc": _later("logins by OpenID Connect", "use auth keys, or approve devices from the shell"),
    "logtail.enabled": ForeignKey("has no effect: clients are always told not to upload their logs"),
    "taildrop.enabled": ForeignKey("has no effect: clients decide on file sharing themselves", (True,)),
    "auto_update.enabled": _later("default settings of automatic client updates", "remove it"),
    "randomize_client_port": ForeignKey("has no effect: this belongs into a policy's nodeAttrs"),
    "cli": _later("remote shells", "run the shell commands on a host that reaches the database"),
    "tuning": _TUNED,
    "dns_config": _removed("use dns"),
    "ip_prefixes": _removed("use prefixes.v4 and prefixes.v6"),
    "private_key_path": _removed("remove it"),
    "acl_policy_path": _removed("use policy"),
    "db_type": _removed("use database.type"),
    "db_path": _removed("remove it"),
    "db_host": _removed("use database.postgres.host"),
    "db_port": _removed("use database.postgres.port"),
    "db_name": _removed("use database.postgres.name"),
    "db_user": _removed("use database.postgres.user"),
    "db_pass": _removed("use database.postgres.pass"),
    "db_ssl": _removed("use database.postgres.ssl"),
    "log_level": _removed("use log.level"),
    "use_username_in_magic_dns": _removed("remove it"),
    "dns.use_username_in_magic_dns": _removed("remove it"),
}
