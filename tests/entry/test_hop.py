"""The header of a hop: what is written is read, and nothing else is believed."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.entry import hop as hop_module
from app.entry.hop import (
    MAX_HOP_AGE_S,
    MAX_HOP_BYTES,
    NONCE_SIZE,
    SIGNATURE,
    Hop,
    NonceBook,
    Verdict,
    hop_key,
    judge,
    open_hop,
    seal_hop,
    split_hop,
)
from app.errors import RemoteProtocolError

KEY = hop_key(b"d" * 32)
NOW = 1_800_000_000.0
HOP = Hop("192.0.2.7", 4711, "host-17-abc", "east", 3, NOW, b"n" * NONCE_SIZE)

addresses = st.one_of(st.ip_addresses().map(str), st.just(""))
hops = st.builds(
    Hop,
    client=addresses,
    client_port=st.integers(0, 65535),
    entry=st.text(max_size=100),
    cluster_id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}", fullmatch=True),
    epoch=st.integers(0, 2**63),
    sent_at=st.integers(0, 2**40).map(lambda ms: ms / 1000),
    nonce=st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE),
)


@given(hops, st.binary(max_size=100))
def test_what_is_sealed_is_opened(hop: Hop, rest: bytes) -> None:
    header = seal_hop(hop, KEY)
    assert len(header) <= MAX_HOP_BYTES
    parts = split_hop(header + rest)
    assert parts == (header, rest)
    found = open_hop(header, KEY)
    assert abs(found.sent_at - hop.sent_at) < 0.002
    expected = hop if hop.client else replace(hop, client_port=0)
    assert replace(found, sent_at=hop.sent_at) == expected


def test_every_prefix_waits_for_more() -> None:
    header = seal_hop(HOP, KEY)
    for size in range(len(header)):
        assert split_hop(header[:size]) is None


def opened(data: bytes) -> Hop:
    parts = split_hop(data)
    if parts is None:
        # Its length was changed: it waits for bytes that never come.
        raise RemoteProtocolError("incomplete")
    return open_hop(parts[0], KEY)


def test_any_changed_byte_is_found_out() -> None:
    header = seal_hop(HOP, KEY)
    assert opened(header) == HOP
    for at in range(len(header)):
        with pytest.raises(RemoteProtocolError):
            opened(header[:at] + bytes([header[at] ^ 1]) + header[at + 1 :])


@given(st.binary(max_size=300))
def test_noise_is_never_a_hop(data: bytes) -> None:
    try:
        parts = split_hop(data)
    except RemoteProtocolError:
        return
    if parts is not None:
        with pytest.raises(RemoteProtocolError):
            open_hop(parts[0], KEY)


def test_sizes_are_bounded() -> None:
    assert MAX_HOP_BYTES == 1024
    with pytest.raises(RemoteProtocolError, match="exceeds 1024 bytes"):
        split_hop(SIGNATURE + struct.pack("!BBH", 0x21, 0x11, MAX_HOP_BYTES))
    with pytest.raises(RemoteProtocolError, match="no PROXY v2"):
        split_hop(b"GET ")


def test_another_deployments_key_opens_nothing() -> None:
    with pytest.raises(RemoteProtocolError, match="not from an entry of this deployment"):
        open_hop(seal_hop(HOP, hop_key(b"e" * 32)), KEY)
    assert hop_key(b"d" * 32) != b"d" * 32


@pytest.mark.parametrize(
    ("what", "changes", "epoch", "verdict", "reason"),
    [
        ("good", {}, 3, Verdict.ACCEPTED, ""),
        ("the clocks are apart within reason", {"sent_at": NOW + MAX_HOP_AGE_S}, 3, Verdict.ACCEPTED, ""),
        ("old", {"sent_at": NOW - MAX_HOP_AGE_S - 1}, 3, Verdict.REFUSED, "31 s old: compare the clocks"),
        ("from the future", {"sent_at": NOW + MAX_HOP_AGE_S + 1}, 3, Verdict.REFUSED, "-31 s old"),
        ("for another cluster", {"cluster_id": "west"}, 3, Verdict.REFUSED, "it is for cluster west"),
        ("for the epoch before", {"epoch": 2}, 3, Verdict.NOT_OWNER, "epoch 2"),
        ("for a later epoch", {"epoch": 4}, 3, Verdict.NOT_OWNER, "epoch 4"),
        ("to a standby", {}, None, Verdict.NOT_OWNER, "epoch 3"),
    ],
)
def test_verdicts(
    what: str, changes: dict[str, object], epoch: int | None, verdict: Verdict, reason: str
) -> None:
    hop = replace(HOP, **changes)  # type: ignore[arg-type]
    found, why = judge(hop, cluster_id="east", epoch=epoch, now=NOW, nonces=NonceBook())
    assert found is verdict, what
    assert reason in why


def test_a_replay_is_refused_as_long_as_its_date_would_do() -> None:
    nonces = NonceBook()

    def at(now: float, hop: Hop = HOP) -> Verdict:
        return judge(hop, cluster_id="east", epoch=3, now=now, nonces=nonces)[0]

    ahead = replace(HOP, sent_at=NOW + MAX_HOP_AGE_S)
    assert at(NOW, ahead) is Verdict.ACCEPTED
    assert at(NOW, ahead) is Verdict.REFUSED
    assert at(NOW + 2 * MAX_HOP_AGE_S, ahead) is Verdict.REFUSED
    assert len(nonces) == 1
    # Later the date alone refuses it, and the nonce may be forgotten.
    assert at(NOW + 2 * MAX_HOP_AGE_S + 1, ahead) is Verdict.REFUSED
    other = replace(HOP, nonce=b"m" * NONCE_SIZE, sent_at=NOW + 2 * MAX_HOP_AGE_S + 1)
    assert at(NOW + 2 * MAX_HOP_AGE_S + 1, other) is Verdict.ACCEPTED
    assert len(nonces) == 1


def test_nonces_are_bounded_and_never_forgotten_too_early() -> None:
    assert hop_module.MAX_NONCES == 262_144
    nonces = NonceBook(limit=2)
    for number in (1, 2, 3):
        hop = replace(HOP, nonce=bytes([number]) * NONCE_SIZE)
        verdict, _ = judge(hop, cluster_id="east", epoch=3, now=NOW, nonces=nonces)
        assert verdict is (Verdict.BUSY if number == 3 else Verdict.ACCEPTED)
    assert len(nonces) == 2
