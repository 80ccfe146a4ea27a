"""The head of a fresh connection: every prefix needs more, bounds hold, junk is refused readably."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from app.entry.head import MAX_HEAD_BYTES, client_address, parse_head, split_head
from app.errors import RemoteProtocolError

HEAD = (
    b"POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\n"
    b"Connection: upgrade\r\nX-Tailscale-Handshake: AAAA\r\n\r\n"
)


def test_every_proper_prefix_needs_more():
    for end in range(len(HEAD)):
        assert split_head(HEAD[:end]) is None


def test_bytes_behind_the_head_are_kept():
    head, rest = split_head(HEAD + b"\x00\x01")
    assert rest == b"\x00\x01"
    parsed = parse_head(head)
    assert (parsed.method, parsed.path) == ("POST", "/ts2021")
    assert parsed.headers["x-tailscale-handshake"] == "AAAA"
    assert parsed.is_upgrade_path


def test_query_is_decoded():
    parsed = parse_head(b"GET /ts2021?X-Tailscale-Handshake=a%2Bb HTTP/1.1\r\nHost: x")
    assert parsed.query("X-Tailscale-Handshake") == "a+b"
    assert parsed.is_upgrade_path


@pytest.mark.parametrize("target", ["/ts2021x", "/ts2021/", "/key", "//ts2021"])
def test_other_paths_are_not_ours(target):
    assert not parse_head(f"POST {target} HTTP/1.1\r\nHost: x".encode()).is_upgrade_path


def test_a_head_without_end_is_refused_at_the_limit():
    assert split_head(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 100) is None
    with pytest.raises(RemoteProtocolError, match=str(MAX_HEAD_BYTES)):
        split_head(b"x" * MAX_HEAD_BYTES)


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0",
        b"GET /",
        b"GET / HTTP/1.1\r\nno colon here",
        b"",
    ],
)
def test_what_is_not_http1_is_refused(head):
    with pytest.raises(RemoteProtocolError):
        parse_head(head)


TRUSTED = [ip_network("127.0.0.0/8"), ip_network("2001:db8:1::/48")]
FORWARDED = {
    "no header": ("127.0.0.1", [], "127.0.0.1"),
    "a trusted peer's word": ("127.0.0.1", ["192.0.2.7"], "192.0.2.7"),
    "a stranger's word": ("198.51.100.1", ["192.0.2.7"], "198.51.100.1"),
    "what the client itself wrote": ("127.0.0.1", ["203.0.113.9, 192.0.2.7"], "192.0.2.7"),
    "what it wrote in a line of its own": ("127.0.0.1", ["203.0.113.9", "192.0.2.7"], "192.0.2.7"),
    "two proxies": ("127.0.0.1", ["203.0.113.9, 192.0.2.7", "127.0.0.2"], "192.0.2.7"),
    "nobody but proxies": ("127.0.0.1", ["127.0.0.3, 127.0.0.2"], "127.0.0.3"),
    "IPv6": ("2001:db8:1::5", ["2001:db8:2::7"], "2001:db8:2::7"),
    "a mapped peer": ("::ffff:127.0.0.1", ["192.0.2.7"], "192.0.2.7"),
    "junk": ("127.0.0.1", ["unknown"], "127.0.0.1"),
    "junk behind a proxy": ("127.0.0.1", ["junk, 127.0.0.2"], "127.0.0.2"),
    "a peer without address": ("?", ["192.0.2.7"], "?"),
}


@pytest.mark.parametrize(("peer", "lines", "client"), FORWARDED.values(), ids=FORWARDED)
def test_the_clients_address_is_what_trusted_proxies_say(peer, lines, client):
    head = "\r\n".join(["POST /ts2021 HTTP/1.1", *(f"X-Forwarded-For: {line}" for line in lines)])
    assert client_address(parse_head(head.encode()), peer, TRUSTED) == client


def test_nobody_is_trusted_by_default():
    head = parse_head(b"POST /ts2021 HTTP/1.1\r\nX-Forwarded-For: 192.0.2.7")
    assert client_address(head, "127.0.0.1", ()) == "127.0.0.1"
