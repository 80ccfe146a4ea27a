"""DERP frame codec: golden bytes, every prefix, any cut, limits, boxes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.public import PrivateKey

from app.errors import LocalProtocolError, RemoteProtocolError
from app.wire import derp
from app.wire.derp import FrameDecoder, FrameType

KEY = bytes(range(32))
SERVER = bytes(PrivateKey(bytes([1]) * 32))
CLIENT = bytes(PrivateKey(bytes([2]) * 32))
SERVER_PUBLIC = bytes(PrivateKey(SERVER).public_key)
CLIENT_PUBLIC = bytes(PrivateKey(CLIENT).public_key)
NONCE = bytes(range(24))

GOLDEN = [
    (derp.encode_server_key(KEY), "01 00000028 44455250f09f9491" + KEY.hex()),
    (derp.encode_send_packet(KEY, b"ab"), "04 00000022" + KEY.hex() + "6162"),
    (derp.encode_recv_packet(KEY, b""), "05 00000020" + KEY.hex()),
    (derp.encode_frame(FrameType.KEEP_ALIVE), "06 00000000"),
    (derp.encode_peer_gone(KEY, derp.PeerGoneReason.NOT_HERE), "08 00000021" + KEY.hex() + "01"),
    (derp.encode_frame(FrameType.PONG, b"12345678"), "13 00000008 3132333435363738"),
    (derp.encode_health("ill"), "14 00000003 696c6c"),
    (derp.encode_restarting(1000, 60_000), "15 00000008 000003e8 0000ea60"),
]


@pytest.mark.parametrize(("frame", "text"), GOLDEN)
def test_golden_bytes(frame: bytes, text: str) -> None:
    assert frame.hex() == text.replace(" ", "")


@pytest.mark.parametrize("frame", [frame for frame, _ in GOLDEN if frame[0] != FrameType.SEND_PACKET])
def test_every_prefix_needs_more(frame: bytes) -> None:
    for size in range(len(frame)):
        decoder = FrameDecoder(derp.SERVER_LIMITS)
        decoder.feed(frame[:size])
        assert decoder.next_frame() is None
        decoder.feed(frame[size:])
        whole = decoder.next_frame()
        assert whole is not None
        assert derp.encode_frame(FrameType(whole.type), whole.payload) == frame
        assert decoder.next_frame() is None
        assert decoder.buffered_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=200))), st.lists(st.integers(1, 50)))
@settings(max_examples=100, deadline=None)
def test_any_cut_gives_the_same_frames(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    def is_fine(kind: int, payload: bytes) -> bool:
        bounds = derp.CLIENT_LIMITS.get(kind)
        return bounds is None or bounds[0] <= len(payload) <= bounds[1]

    frames = [(kind, payload) for kind, payload in frames if is_fine(kind, payload)]
    data = b"".join(bytes((kind,)) + len(payload).to_bytes(4, "big") + payload for kind, payload in frames)
    decoder, seen, offset = FrameDecoder(), [], 0
    for cut in [*cuts, len(data)]:
        decoder.feed(data[offset : offset + cut])
        offset += cut
        while (frame := decoder.next_frame()) is not None:
            seen.append((frame.type, frame.payload))
    assert seen == [frame for frame in frames if frame[0] in derp.CLIENT_LIMITS]


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_frames_or_a_protocol_error(data: bytes) -> None:
    decoder = FrameDecoder()
    decoder.feed(data)
    try:
        while (frame := decoder.next_frame()) is not None:
            least, most = derp.CLIENT_LIMITS[frame.type]
            assert least <= len(frame.payload) <= most
    except RemoteProtocolError:
        pass


@pytest.mark.parametrize("kind", sorted(derp.CLIENT_LIMITS))
def test_limits_hold_and_are_seen_in_the_header(kind: int) -> None:
    least, most = derp.CLIENT_LIMITS[kind]
    for length, is_fine in ((least - 1, False), (least, True), (most, True), (most + 1, False)):
        if length < 0:
            continue
        decoder = FrameDecoder()
        decoder.feed(bytes((kind,)) + length.to_bytes(4, "big"))
        if is_fine:
            decoder.feed(bytes(length))
            frame = decoder.next_frame()
            assert frame is not None
            assert len(frame.payload) == length
        else:
            with pytest.raises(RemoteProtocolError):
                decoder.next_frame()


def test_limits_are_what_the_papers_say() -> None:
    assert derp.CLIENT_LIMITS[FrameType.SEND_PACKET][1] == 32 + 65536
    assert derp.CLIENT_LIMITS[FrameType.CLIENT_INFO][1] == 256 * 1024
    assert derp.MIN_DISCO_BYTES == 62


def test_unknown_frame_is_skipped_without_being_stored() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"\xaa" + derp.MAX_SKIPPED_BYTES.to_bytes(4, "big"))
    assert decoder.next_frame() is None
    for _ in range(derp.MAX_SKIPPED_BYTES // 65536):
        decoder.feed(bytes(65536))
        assert decoder.next_frame() is None
        assert decoder.buffered_bytes == 0
    decoder.feed(derp.encode_frame(FrameType.PING, b"12345678"))
    frame = decoder.next_frame()
    assert frame is not None
    assert frame.type == FrameType.PING


def test_unknown_frame_that_is_too_long_is_refused() -> None:
    decoder = FrameDecoder()
    decoder.feed(b"\xaa" + (derp.MAX_SKIPPED_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(RemoteProtocolError):
        decoder.next_frame()


def test_oversize_packet_is_our_own_defect() -> None:
    with pytest.raises(LocalProtocolError):
        derp.encode_recv_packet(KEY, bytes(derp.MAX_PACKET_BYTES + 1))


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (derp.DISCO_MAGIC + bytes(56), True),
        (derp.DISCO_MAGIC + bytes(55), False),
        (bytes(62), False),
        (b"", False),
        (derp.DISCO_MAGIC + bytes(2000), True),
    ],
)
def test_disco_is_told_from_wireguard(packet: bytes, expected: bool) -> None:
    assert derp.is_disco(packet) is expected


def test_client_info_box_round_trip() -> None:
    info = derp.ClientInfo(version=2, can_ack_pings=True)
    frame = derp.encode_client_info(info, CLIENT, SERVER_PUBLIC, NONCE)
    payload = frame[derp.HEADER_SIZE :]
    assert payload[:56] == CLIENT_PUBLIC + NONCE
    assert derp.parse_client_info(payload, SERVER) == (CLIENT_PUBLIC, info)


def test_client_info_is_read_as_go_writes_it() -> None:
    from nacl.public import Box, PublicKey

    for text, expected in (
        (b'{"version":2,"CanAckPings":true,"IsProber":true}', derp.ClientInfo("", 2, True, True)),
        (b'{"meshKey":"ff","AppName":"x","Future":[1]}', derp.ClientInfo("ff", app_name="x")),
        (b"{}", derp.ClientInfo()),
    ):
        sealed = Box(PrivateKey(CLIENT), PublicKey(SERVER_PUBLIC)).encrypt(text, NONCE)
        assert derp.parse_client_info(CLIENT_PUBLIC + sealed, SERVER) == (CLIENT_PUBLIC, expected)
    for text in (b"", b"[]", b'{"version":"2"}', b"\xff"):
        sealed = Box(PrivateKey(CLIENT), PublicKey(SERVER_PUBLIC)).encrypt(text, NONCE)
        with pytest.raises(RemoteProtocolError):
            derp.parse_client_info(CLIENT_PUBLIC + sealed, SERVER)


def test_any_changed_byte_of_client_info_is_refused() -> None:
    payload = derp.encode_client_info(derp.ClientInfo(version=2), CLIENT, SERVER_PUBLIC, NONCE)[5:]
    for index in range(len(payload)):
        changed = bytearray(payload)
        changed[index] ^= 1
        with pytest.raises(RemoteProtocolError):
            derp.parse_client_info(bytes(changed), SERVER)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"short", b""])
def test_odd_client_keys_are_refused(key: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        derp.parse_client_info(key + bytes(60), SERVER)


def test_server_info_round_trip() -> None:
    frame = derp.encode_server_info(derp.ServerInfo(version=2), SERVER, CLIENT_PUBLIC, NONCE)
    assert derp.parse_server_info(frame[5:], CLIENT, SERVER_PUBLIC) == derp.ServerInfo(version=2)
    with pytest.raises(RemoteProtocolError):
        derp.parse_server_info(frame[5:-1], CLIENT, SERVER_PUBLIC)


def test_server_key_needs_its_magic() -> None:
    assert derp.parse_server_key(derp.encode_server_key(KEY)[5:]) == KEY
    for payload in (KEY, b"DERQ" + bytes(36), derp.MAGIC + KEY + b"x", b""):
        with pytest.raises(RemoteProtocolError):
            derp.parse_server_key(payload)
    with pytest.raises(RemoteProtocolError):
        derp.parse_restarting(b"1234567")
