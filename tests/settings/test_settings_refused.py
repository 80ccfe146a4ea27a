"""Settings that stop the start, each with the sentence the operator gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.config_file import MAX_CONFIG_BYTES
from app.errors import ConfigError
from app.settings import Loaded, load


def from_text(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **overrides: Any) -> Loaded:
    (tmp_path / "given.yaml").write_text(text)
    return load("given.yaml", environ or {}, tmp_path, overrides)


BAD = [
    ("server_url: ftp://x", "server_url: 'ftp://x' (FILE): must start with http:// or https://"),
    (
        "server_url: hs.example.com",
        "server_url: 'hs.example.com' (FILE): must start with http:// or https://",
    ),
    (
        "server_url: https://",
        "server_url: 'https://' (FILE): needs a host, such as https://headscale.example.com",
    ),
    ("server_url: https://h:99999", "server_url: 'https://h:99999' (FILE): is not a URL: Port out of range"),
    ("server_url: https://h/login", "server_url: 'https://h/login' (FILE): must not have a path"),
    ("server_url: https://h?x=1", "server_url: 'https://h?x=1' (FILE): must not have a user, a query"),
    ("server_url: https://a:b@h", "server_url: 'https://a:********@h' (FILE): must not have a user, a query"),
    ("server_url: [a]", "server_url: ['a'] (FILE): Input should be a valid string"),
    ("listen_addr: '8080'", "listen_addr: '8080' (FILE): must be host:port with a port from 0 to 65535"),
    ("listen_addr: 8080", "listen_addr: 8080 (FILE): Input should be a valid string"),
    ("listen_addr: ''", "listen_addr: '' (FILE): must be host:port"),
    ("listen_addr: a:http", "listen_addr: 'a:http' (FILE): must be host:port"),
    ("listen_addr: a:70000", "listen_addr: 'a:70000' (FILE): must be host:port"),
    ("listen_addr: '::1:80'", "listen_addr: '::1:80' (FILE): must have an IPv6 address in brackets"),
    (
        "listen_addr: 'a b:80'",
        "listen_addr: 'a b:80' (FILE): has a host that is neither a name",
    ),
    ("internal_addr: ':9443'", "internal_addr: ':9443' (FILE): must name one address of this host: other"),
    ("internal_addr: 0.0.0.0:9443", "internal_addr: '0.0.0.0:9443' (FILE): must name one address of this"),
    ("internal_addr: '[::]:9443'", "internal_addr: '[::]:9443' (FILE): must name one address of this host"),
    ("internal_addr: 10.0.0.7", "internal_addr: '10.0.0.7' (FILE): must be host:port with a port"),
    ("advertise_addr: hs.example.com", "advertise_addr: 'hs.example.com' (FILE): "),
    ("metrics_listen_addr: x", "metrics_listen_addr: 'x' (FILE): must be host:port"),
    ("cluster_id: 'a b'", "cluster_id: 'a b' (FILE): must have 1 to 48 letters, digits, - or _"),
    ("cluster_id: ''", "cluster_id: '' (FILE): must have 1 to 48 letters"),
    ("cluster_id: -1", "cluster_id: -1 (FILE): must have 1 to 48 letters"),
    ("cluster_id: true", "cluster_id: True (FILE): must be a text or an integer; put it in quotes"),
    ("cluster_id: 1.5", "cluster_id: 1.5 (FILE): must be a text or an integer; put it in quotes"),
    (f"cluster_id: {'a' * 49}", f"cluster_id: '{'a' * 49}' (FILE): must have 1 to 48 letters"),
    ("pg_dsn: mysql://u:p@h/d", "pg_dsn: ******** (FILE): must be a URL such as postgresql://"),
    ("pg_dsn: host=db user=x", "pg_dsn: ******** (FILE): must be a URL such as postgresql://"),
    (
        "pg_dsn: 'postgres://u:a#b@h/d'",
        "pg_dsn: ******** (FILE): contains #; inside a password",
    ),
    ("pg_dsn: 'postgres://u:a@b@h/d'", "pg_dsn: ******** (FILE): contains more than one @"),
    ("pg_dsn: 'postgres://u:a b@h/d'", "pg_dsn: ******** (FILE): contains a space"),
    ("database: {type: mysql}", "database.type: 'mysql' (FILE): Input should be 'postgres', 'sqlite'"),
    ("prefixes: {v4: 100.64.0.0/16}", "prefixes.v4: '100.64.0.0/16' (FILE): each tenant has the whole range"),
    ("prefixes: {v6: fd00::/48}", "prefixes.v6: 'fd00::/48' (FILE): each tenant has the whole range"),
    ("database: {postgres: {user: x}}", "database.postgres.host: '' (not set): is needed"),
    ("database: {postgres: {host: h, port: 0}}", "database.postgres.port: 0 (FILE): Input should be greater"),
    (
        "database: {postgres: {host: h, ssl: maybe}}",
        "database.postgres.ssl: 'maybe' (FILE): must be true",
    ),
    (
        "database: {postgres: {host: h, max_open_conns: 1}}",
        "database.postgres.max_open_conns: 1 (FILE): Input should be greater than or equal to 2",
    ),
    ("derp: {urls: [ftp://x]}", "derp.urls: 'ftp://x' (FILE): must start with http:// or https://"),
    (
        "derp: {update_frequency: 1s}",
        "derp.update_frequency: '1s' (FILE): Input should be greater",
    ),
    ("derp: {server: {region_id: 70000}}", "derp.server.region_id: 70000 (FILE): Input should be less than"),
    (
        "derp: {server: {ipv4: 1.2.3}}",
        "derp.server.ipv4: '1.2.3' (FILE): '1.2.3' does not appear",
    ),
    (
        "derp: {server: {enabled: perhaps}}",
        "derp.server.enabled: 'perhaps' (FILE): Input should be",
    ),
    ("node: {expiry: 30}", "node.expiry: 30 (FILE): needs a unit, such as 30s, 10m or 3h"),
    ("node: {expiry: -1h}", "node.expiry: '-1h' (FILE): is not a duration such as 30s, 10m or 3h"),
    ("node: {expiry: soon}", "node.expiry: 'soon' (FILE): is not a duration"),
    ("node: {expiry: 9999y}", "node.expiry: '9999y' (FILE): is longer than a hundred years"),
    (
        "node: {ephemeral: {inactivity_timeout: 65s}}",
        "node.ephemeral.inactivity_timeout: '65s' (FILE): Input should be greater than 65",
    ),
    ("dns: {base_domain: 'a..b'}", "dns.base_domain: 'a..b' (FILE): is not a domain name"),
    ("dns: {base_domain: ''}", "dns.base_domain: '' (FILE): is not a domain name"),
    ("dns: {base_domain: 10.0.0.1}", "dns.base_domain: '10.0.0.1' (FILE): is not a domain name"),
    (
        "{server_url: https://hs.example.com, dns: {base_domain: example.com}}",
        "dns.base_domain: 'example.com' (FILE): must not contain the host of server_url, hs.example.com",
    ),
    (
        "{server_url: 'https://HS.example.com:8443', dns: {base_domain: hs.example.com}}",
        "dns.base_domain: 'hs.example.com' (FILE): must not contain the host of server_url",
    ),
    ("dns: {override_local_dns: true}", "dns.override_local_dns: True (FILE): needs at least one server"),
    (
        "dns: {nameservers: {global: [dns.example]}}",
        "dns.nameservers.global: 'dns.example' (FILE): is",
    ),
    ("dns: {search_domains: ['-x']}", "dns.search_domains: '-x' (FILE): is not a domain name"),
    ("dns: broken", "dns: 'broken' (FILE): Input should be a valid dictionary"),
    ("trusted_proxies: [proxy]", "trusted_proxies: 'proxy' (FILE): is neither an IP address nor a network"),
    ("trusted_proxies: [10.0.0.1/8]", "trusted_proxies: '10.0.0.1/8' (FILE): is neither an IP address nor"),
    ("trusted_proxies: ['::/0']", "trusted_proxies: '::/0' (FILE): would let everybody choose the address"),
    ("tls_cert_path: a.pem", "tls_key_path: '' (not set): must be set too"),
    ("tls_key_path: a.pem", "tls_cert_path: '' (not set): must be set too"),
    (
        "tls_letsencrypt_hostname: a.example",
        "tls_letsencrypt_hostname: 'a.example' (FILE): certificates",
    ),
    ("log: {level: loud}", "log.level: 'loud' (FILE): Input should be 'debug', 'info', 'warning' or 'error'"),
    ("log: {format: xml}", "log.format: 'xml' (FILE): Input should be 'text' or 'json'"),
    ("timing: {lease_ttl: 1s}", "timing.lease_ttl: '1s' (FILE): Input should be greater than or equal to 2"),
    ("servr_url: x", "servr_url: 'x' (FILE): unknown key; did you mean server_url?"),
    ("dns: {base_domian: x}", "dns.base_domian: 'x' (FILE): unknown key; did you mean dns.base_domain?"),
    ("qwertz: 1", "qwertz: 1 (FILE): unknown key"),
    ("logtail: {enabeld: true}", "logtail.enabeld: True (FILE): unknown key; did you mean logtail.enabled?"),
    ("logtail: yes", "logtail: 'yes' (FILE): unknown key"),
    (
        "dns_config: {magic_dns: true}",
        "dns_config: {'magic_dns': True} (FILE): headscale removed this",
    ),
    ("acl_policy_path: x", "acl_policy_path: 'x' (FILE): headscale removed this key; use policy"),
    ("db_type: postgres", "db_type: 'postgres' (FILE): headscale removed this key; use database.type"),
    ("1: x", "1: 'x' (FILE): unknown key"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD, ids=[text for text, _ in BAD])
def test_wrong_setting_stops_with_key_value_and_reason(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as refused:
        from_text(tmp_path, text)
    assert sentence.replace("FILE", str(tmp_path / "given.yaml")) in refused.value.message
    assert "\n" not in refused.value.message


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    environ = {"HS_LISTEN_ADDR": "x", "CLUSTER_ID": "a b"}
    with pytest.raises(ConfigError) as refused:
        from_text(tmp_path, "server_url: x\nfoo: 1\ndb_ssl: true", environ, log={"level": "loud"})
    lines = refused.value.message.splitlines()
    assert len(lines) == 6
    for start in (
        f"foo: 1 ({tmp_path / 'given.yaml'}): ",
        f"db_ssl: True ({tmp_path / 'given.yaml'}): ",
        "server_url: 'x' (",
        "listen_addr: 'x' (HS_LISTEN_ADDR): ",
        "cluster_id: 'a b' (CLUSTER_ID): ",
        "log.level: 'loud' (command line): ",
    ):
        assert any(line.startswith(start) for line in lines), start


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("c.yaml", b"a: [1", "c.yaml, line 1, column"),
        ("c.yaml", b"a: 1\na: 2", "c.yaml, line 2, column 1: the key 'a' stands here twice"),
        ("c.yaml", b"dns:\n  a: 1\n  a: 1", "c.yaml, line 3, column 3: the key 'a' stands here twice"),
        ("c.yaml", b"- 1", "c.yaml: must contain keys and values, not a list"),
        ("c.yaml", b"text", "c.yaml: must contain keys and values, not a str"),
        ("c.yaml", b"a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        ("c.yaml", b"a: \xff", "c.yaml: not UTF-8 text at byte 3"),
        ("c.yaml", b"a: \x01", "c.yaml: not YAML"),
        ("c.yaml", b"[" * 5000, "c.yaml"),
        ("c.yaml", b"#" * (MAX_CONFIG_BYTES + 1), "larger than 1048576 bytes"),
        ("c.json", b'{"a": 1,}', "c.json, line 1, column"),
        ("c.json", b"[]", "c.json: must contain keys and values, not a list"),
    ],
)
def test_broken_file(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load(name, {}, tmp_path)
    assert sentence in refused.value.message


def test_largest_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"#" * MAX_CONFIG_BYTES)
    assert load("c.yaml", {}, tmp_path).settings.cluster_id == "default"


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_unreadable_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"(No such file|Is a directory).*--config"):
        load(name, {}, tmp_path)
