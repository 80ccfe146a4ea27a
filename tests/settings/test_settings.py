"""Settings: sources and their order, what is honoured, what is warned about, what stops the start."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.config_file import search_places
from app.errors import ConfigError
from app.headscale_keys import FOREIGN_KEYS
from app.settings import Loaded, Settings, load
from app.settings_model import FIELD_KEYS, LONGEST_SHOWN_VALUE
from app.settings_values import MAX_DOMAIN_LENGTH, PLACEHOLDER_URL, mask_dsn, parse_cluster_id

EXAMPLE = Path(__file__).with_name("headscale-0.26.yaml")


def from_text(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **overrides: Any) -> Loaded:
    (tmp_path / "given.yaml").write_text(text)
    return load("given.yaml", environ or {}, tmp_path, overrides)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own configuration files are none of our business."""
    monkeypatch.setattr("app.config_file.search_places", lambda home, cwd: (Path(home), cwd))


# --- sources -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("nowhere")
def test_starts_with_nothing(tmp_path: Path) -> None:
    loaded = load(None, {"HOME": str(tmp_path), "HS_STATE_DIR": str(tmp_path / "state")}, tmp_path)
    settings = loaded.settings
    assert loaded.source_file is None
    assert settings.pg_dsn is None
    assert settings.cluster_id == "default"
    assert settings.listen_addr == "127.0.0.1:8080"
    assert settings.server_url == "http://127.0.0.1:8080"
    assert settings.metrics_listen_addr == "127.0.0.1:9090"
    assert (settings.internal_addr, settings.advertise_addr) == ("127.0.0.1:0", "")
    assert settings.secret_key_file == tmp_path / "state" / "secret.key"
    assert settings.dns.base_domain == "hs.internal"
    assert settings.dns.override_local_dns is False
    assert settings.derp.server.enabled is True
    assert settings.timing.offline_grace == 10.0


def test_precedence(tmp_path: Path) -> None:
    text = "cluster_id: file\nlisten_addr: 127.0.0.1:1\nlog: {level: debug, format: json}\n"
    environ = {"CLUSTER_ID": "original", "HS_LISTEN_ADDR": "127.0.0.1:2", "HS_LOG__LEVEL": "error"}
    settings = from_text(tmp_path, text, environ, listen_addr="127.0.0.1:3").settings
    assert settings.cluster_id == "original"
    assert settings.listen_addr == "127.0.0.1:3"
    assert (settings.log.level, settings.log.format) == ("error", "json")
    environ["HS_CLUSTER_ID"] = "ours"
    assert from_text(tmp_path, text, environ).settings.cluster_id == "ours"


def test_the_originals_start_line(tmp_path: Path) -> None:
    environ = {
        "CLUSTER_ID": "A",
        "PG_DSN": "postgres://u:p@db/hs",
        "DERP_MAP_URL": "https://derp.example.com/map.json",
    }
    settings = from_text(tmp_path, "derp: {urls: [https://other.example.com]}", environ).settings
    assert settings.cluster_id == "A"
    assert settings.pg_dsn == "postgres://u:p@db/hs"
    assert settings.derp.urls == ("https://other.example.com", "https://derp.example.com/map.json")


def test_empty_original_variables_mean_unset(tmp_path: Path) -> None:
    environ = {"CLUSTER_ID": "", "PG_DSN": "", "DERP_MAP_URL": ""}
    settings = from_text(tmp_path, "cluster_id: 5", environ).settings
    assert (settings.cluster_id, settings.pg_dsn, settings.derp.urls) == ("5", None, ())


def test_lists_from_the_environment(tmp_path: Path) -> None:
    environ = {
        "HS_DERP__URLS": "https://a.example/map, https://b.example/map",
        "HS_DNS__NAMESERVERS__GLOBAL": '["1.1.1.1", "9.9.9.9"]',
        "HS_DERP__SERVER__ENABLED": "false",
        "HS_METRICS_LISTEN_ADDR": "",
    }
    settings = from_text(tmp_path, "", environ).settings
    assert settings.derp.urls == ("https://a.example/map", "https://b.example/map")
    assert settings.dns.nameservers.global_ == ("1.1.1.1", "9.9.9.9")
    assert settings.dns.override_local_dns is True
    assert settings.derp.server.enabled is False
    assert settings.metrics_listen_addr == ""


def test_search_order() -> None:
    assert search_places("/home/a", Path("/work")) == (
        Path("/etc/headscale-cluster"),
        Path("/home/a/.headscale-cluster"),
        Path("/etc/headscale"),
        Path("/home/a/.headscale"),
        Path("/work"),
    )


@pytest.mark.usefixtures("nowhere")
def test_first_found_file_is_taken_and_named(tmp_path: Path) -> None:
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    environ = {"HOME": str(home)}
    (cwd / "config.json").write_text('{"cluster_id": "cwd-json"}')
    found = [load(None, environ, cwd)]
    (cwd / "config.yaml").write_text("cluster_id: cwd-yaml")
    found.append(load(None, environ, cwd))
    (home / "config.json").write_text('{"cluster_id": 3}')
    found.append(load(None, environ, cwd))
    (tmp_path / "other.yaml").write_text("cluster_id: given")
    found.append(load("../other.yaml", environ, cwd))
    found.append(load(None, environ | {"HS_CONFIG": str(tmp_path / "other.yaml")}, cwd))
    assert [one.settings.cluster_id for one in found] == ["cwd-json", "cwd-yaml", "3", "given", "given"]
    assert found[1].source_file == cwd / "config.yaml"


def test_no_configuration_by_choice(tmp_path: Path) -> None:
    assert load("/dev/null", {}, tmp_path).settings.cluster_id == "default"


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "c.yaml").write_text(
        "{tls_cert_path: cert.pem, tls_key_path: /abs/key.pem, derp: {paths: [map.yaml]}, state_dir: state}"
    )
    environ = {"HS_SECRET_KEY_FILE": "secret"}
    settings = load("etc/c.yaml", environ, tmp_path).settings
    assert settings.tls_cert_path == tmp_path / "etc" / "cert.pem"
    assert settings.tls_key_path == Path("/abs/key.pem")
    assert settings.derp.paths == (tmp_path / "etc" / "map.yaml",)
    assert settings.state_dir == tmp_path / "etc" / "state"
    assert settings.secret_key_file == tmp_path / "secret"


# --- what is accepted --------------------------------------------------------------------------


def test_headscales_example_loads(tmp_path: Path) -> None:
    loaded = load(str(EXAMPLE), {}, tmp_path)
    settings = loaded.settings
    assert settings.dns.base_domain == "example.com"
    assert settings.node.ephemeral.inactivity_timeout == 1800
    assert settings.derp.update_frequency == 86400
    assert settings.derp.server.enabled is False
    assert settings.pg_dsn is None
    assert [warning.split(":")[0] for warning in loaded.warnings] == [
        "noise",
        "ephemeral_node_inactivity_timeout",
        "server_url",
        "database.type",
    ]


def test_trusted_proxies_are_networks(tmp_path: Path) -> None:
    """Addresses count as networks of one; the environment's list has commas."""
    given = load(None, {"HS_TRUSTED_PROXIES": "127.0.0.1, 10.0.0.0/8,::1"}, tmp_path).settings
    assert given.trusted_proxies == ("127.0.0.1/32", "10.0.0.0/8", "::1/128")


def test_the_originals_file_starts(tmp_path: Path) -> None:
    loaded = from_text(tmp_path, "server_url: http://ip:port\ncluster_id: 1\n")
    assert loaded.settings.cluster_id == "1"
    assert loaded.settings.server_url == "http://127.0.0.1:8080"
    assert f"server_url: {PLACEHOLDER_URL} is a placeholder; taking http://127.0.0.1:8080" in loaded.warnings


def test_every_key_of_headscale_is_known(tmp_path: Path) -> None:
    """Also those that its example does not show (HEADSCALE.md part H)."""
    shown = """server_url listen_addr metrics_listen_addr trusted_proxies noise prefixes.v4 prefixes.v6
        prefixes.allocation derp.server.enabled derp.server.region_id derp.server.region_code
        derp.server.region_name derp.server.verify_clients derp.server.stun_listen_addr
        derp.server.private_key_path derp.server.automatically_add_embedded_derp_region derp.server.ipv4
        derp.server.ipv6 derp.urls derp.paths derp.auto_update_enabled derp.update_frequency
        disable_check_updates node.expiry node.ephemeral.inactivity_timeout node.routes preauth_keys
        database.type database.debug database.gorm database.sqlite database.postgres.host
        database.postgres.port database.postgres.name database.postgres.user database.postgres.pass
        database.postgres.ssl database.postgres.max_open_conns database.postgres.max_idle_conns
        database.postgres.conn_max_idle_time_secs acme_url acme_email tls_letsencrypt_hostname
        tls_letsencrypt_cache_dir tls_letsencrypt_challenge_type tls_letsencrypt_listen tls_cert_path
        tls_key_path log.level log.format policy.mode policy.path dns.magic_dns dns.base_domain
        dns.override_local_dns dns.nameservers.global dns.nameservers.split dns.search_domains
        dns.extra_records dns.extra_records_path unix_socket unix_socket_permission oidc logtail.enabled
        taildrop.enabled auto_update.enabled cli tuning grpc_listen_addr grpc_allow_insecure
        randomize_client_port"""
    assert set(shown.split()) <= FIELD_KEYS | FOREIGN_KEYS.keys()
    assert not FIELD_KEYS & FOREIGN_KEYS.keys()


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("oidc: {issuer: https://id.example.com, client_id: x}", "oidc: logins by OpenID Connect are not"),
        ("policy: {mode: database, path: /etc/acl.hujson}", "policy.path: this file is NOT applied"),
        ("policy: {mode: file}", "policy.mode: file without policy.path: policies are kept"),
        ("dns: {nameservers: {split: {a.example: [1.1.1.1]}}}", "dns.nameservers.split: split DNS"),
        ("dns: {extra_records: [{name: a, type: A, value: 1.1.1.1}]}", "dns.extra_records: extra DNS"),
        ("randomize_client_port: true", "randomize_client_port: has no effect"),
        ("logtail: {enabled: true}", "logtail.enabled: has no effect"),
        ("taildrop: {enabled: false}", "taildrop.enabled: has no effect"),
        ("tuning: {batch_change_delay: 800ms}", "tuning: has no effect"),
        ("grpc_listen_addr: 0.0.0.0:50443", "grpc_listen_addr: has no effect: there is no gRPC"),
        ("prefixes: {allocation: random}", "prefixes.allocation: addresses are given in sequence"),
        ("node: {routes: {ha: {probe_interval: 10s}}}", "node.routes: health probes"),
        ("cli: {address: hs.example.com}", "cli: remote shells"),
        ("noise: {private_key_path: /n.key}", "noise: the deployment's Noise key lies sealed"),
        ("database: {type: sqlite}", "database.type: there is no SQLite"),
        ("{database: {postgres: {host: h}}, pg_dsn: postgres://x/y}", "database.postgres: not used"),
        ("server_url: http://hs.example.com:8080", "server_url: .*insist on port 443"),
        ("server_url: http://10.1.2.3", "server_url: .*every refused connection"),
        ("server_url: http://localhost:80", "server_url: .*every refused connection"),
        ("server_url: http://198.51.100.7", "server_url: .*every refused connection"),
        ("server_url: http://8.8.8.8:8080", "server_url: .*insist on port 443"),
    ],
)
def test_warnings_name_the_key_and_what_to_do(tmp_path: Path, text: str, warned: str) -> None:
    base = {} if "server_url" in text else {"HS_SERVER_URL": "https://hs.example.com"}
    loaded = from_text(tmp_path, text, base)
    assert len(loaded.warnings) == 1

    assert re.match(warned, loaded.warnings[0])


@pytest.mark.parametrize("url", ["https://hs.example.com", "https://10.0.0.1:8443", "http://hs.example.com"])
def test_fine_login_urls_are_not_warned_about(tmp_path: Path, url: str) -> None:
    assert from_text(tmp_path, f"server_url: {url}/").warnings == []
    assert from_text(tmp_path, f"server_url: {url}/").settings.server_url == url


def test_environment_is_warned_about_not_refused(tmp_path: Path) -> None:
    """A container platform may set names of ours by chance (service links)."""
    environ = {
        "HS_SERVER_URL": "https://hs.example.com",
        "HS_NODE_SERVICE_HOST": "10.0.0.1",
        "HS_DNS__BASE_DOMIAN": "a.example",
        "HS_LOGTAIL__ENABLED": "true",
        "HS_TEST_PG_DSN": "postgres://x",
        "HEADSCALE_SERVER_URL": "x",
    }
    assert from_text(tmp_path, "", environ).warnings == [
        "HEADSCALE_SERVER_URL: ignored; the prefix is HS_ here, with __ for nesting",
        "HS_DNS__BASE_DOMIAN: ignored; unknown key; did you mean dns.base_domain?",
        "HS_LOGTAIL__ENABLED: has no effect: clients are always told not to upload their logs",
        "HS_NODE_SERVICE_HOST: ignored; unknown key",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1", "1"),
        ("007", "007"),
        ("12:30", "12:30"),
        ("'a_b-C'", "a_b-C"),
        ("no", "no"),
        ("2026-01-01", "2026-01-01"),
        ("A", "A"),
    ],
)
def test_cluster_id_is_the_text_one_reads(tmp_path: Path, text: str, expected: str) -> None:
    if ":" in expected:
        with pytest.raises(ConfigError, match="cluster_id: '12:30'"):
            from_text(tmp_path, f"cluster_id: {text}")
        return
    assert from_text(tmp_path, f"cluster_id: {text}").settings.cluster_id == expected


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ('"0"', 0), ("30s", 30), ("1h30m", 5400), ("500ms", 0.5), ("1.5h", 5400), ("180d", 15552000)],
)
def test_durations(tmp_path: Path, text: str, seconds: float) -> None:
    assert from_text(tmp_path, f"node: {{expiry: {text}}}").settings.node.expiry == seconds


@pytest.mark.parametrize(
    ("text", "dsn"),
    [
        (
            "{host: db, user: hs, pass: 'p@/#', name: n}",
            "postgresql://hs:p%40%2F%23@db:5432/n?sslmode=disable",
        ),
        ("{host: db, port: 6543, ssl: true}", "postgresql://db:6543/headscale?sslmode=require"),
        ("{host: '::1', ssl: verify-full}", "postgresql://[::1]:5432/headscale?sslmode=verify-full"),
        (
            "{host: /run/pg, user: hs}",
            "postgresql://hs@/headscale?host=%2Frun%2Fpg&port=5432&sslmode=disable",
        ),
    ],
)
def test_separate_database_keys_make_a_dsn(tmp_path: Path, text: str, dsn: str) -> None:
    assert from_text(tmp_path, f"database: {{type: postgres, postgres: {text}}}").settings.pg_dsn == dsn


def test_derived_login_url(tmp_path: Path) -> None:
    for listen, url in {
        "0.0.0.0:8080": "http://127.0.0.1:8080",
        ":8080": "http://127.0.0.1:8080",
        "'[::]:80'": "http://127.0.0.1:80",
        "'[::1]:80'": "http://[::1]:80",
        "node-a:81": "http://node-a:81",
    }.items():
        assert from_text(tmp_path, f"listen_addr: {listen}").settings.server_url == url


# --- secrets and display -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:geheim@h:5432,h2:5433/d?sslmode=require",
        "postgresql://u@h/d?password=geheim&x=1",
        "postgresql://u@h/d?sslpassword=geheim",
        "postgresql://u:ge%3Ageheim@/d?host=%2Frun",
    ],
)
def test_secrets_are_never_shown(tmp_path: Path, dsn: str) -> None:
    assert "geheim" not in mask_dsn(dsn)
    settings = from_text(tmp_path, f"pg_dsn: {dsn}").settings
    assert settings.pg_dsn == dsn
    assert "geheim" not in repr(settings) + str(settings) + json.dumps(settings.masked())


def test_separate_password_is_never_shown(tmp_path: Path) -> None:
    settings = from_text(tmp_path, "database: {postgres: {host: h, user: u, pass: geheim}}").settings
    assert "geheim" not in repr(settings) + json.dumps(settings.masked())
    assert "geheim" in str(settings.pg_dsn)


@pytest.mark.parametrize(
    "text",
    [
        "pg_dns: postgres://u:geheim@h/d",
        "database: postgres://u:geheim@h/d",
        "database: {postgres: 'host=h password=geheim'}",
        "database: {postgres: {host: h, passw: geheim}}",
        "db_pass: geheim",
        "pg_dsn: geheim",
        "api_token: geheim",
        "server_url: https://u:geheim@h",
    ],
)
def test_misplaced_secrets_are_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        from_text(tmp_path, text)
    assert "geheim" not in str(refused.value)


def test_masked_shows_every_key(tmp_path: Path) -> None:
    shown = from_text(tmp_path, "").settings.masked()
    assert shown.keys() == FIELD_KEYS
    assert shown["cluster_id"] == "'default'"


def test_long_values_are_shortened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        from_text(tmp_path, f"server_url: {'x' * 5000}")
    assert "x" * (LONGEST_SHOWN_VALUE - 1) + "... (" in str(refused.value)


def test_longest_domain(tmp_path: Path) -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * (MAX_DOMAIN_LENGTH - 3 * 64)])
    assert from_text(tmp_path, f"dns: {{base_domain: {longest}}}").settings.dns.base_domain == longest
    with pytest.raises(ConfigError, match="is not a domain name"):
        from_text(tmp_path, f"dns: {{base_domain: {longest}b}}")


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = from_text(tmp_path, "").settings
    with pytest.raises(ValueError, match="frozen"):
        settings.cluster_id = "other"  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        settings.dns.magic_dns = False  # type: ignore[misc]


def test_only_load_reads_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HS_CLUSTER_ID", "stray")
    assert Settings(state_dir=tmp_path).cluster_id == "default"
    assert load("/dev/null", {}, tmp_path).settings.cluster_id == "default"


@given(st.one_of(st.integers(), st.text(max_size=60)))
def test_cluster_id_property(value: int | str) -> None:
    try:
        text = parse_cluster_id(value)
    except ValueError:
        return
    assert text == str(value)
    assert 1 <= len(text) <= 48
    assert text.isascii()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["dns", "log", "level", "derp", "server", "oidc", "x"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
)
def test_any_shape_loads_or_is_refused(tree: Any) -> None:
    overrides = tree if isinstance(tree, dict) else {"dns": tree}
    with contextlib.suppress(ConfigError):
        load("/dev/null", {}, Path("/"), overrides)


def test_example_file_is_plain_yaml() -> None:
    assert yaml.safe_load(EXAMPLE.read_text())["prefixes"]["allocation"] == "sequential"
