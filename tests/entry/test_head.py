"""The head of a fresh connection: every prefix needs more, bounds hold, junk is refused readably."""

from __future__ import annotations

import pytest

from app.entry.head import MAX_HEAD_BYTES, parse_head, split_head
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
