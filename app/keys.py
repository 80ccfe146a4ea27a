"""Public keys as 32 raw bytes inside, prefixed lower-case hex outside.

Text forms: tailscale types/key (`mkey:`, `nodekey:`, `discokey:`, `chalpub:`), parsing as in
types/key/util.go parseHex: exact prefix, exact length, hex in either case. The all-zero key
means "none" (tailcfg.RegisterRequest.OldNodeKey).
"""

from __future__ import annotations

from typing import NewType

from app.errors import BadRequest

MachineKey = NewType("MachineKey", bytes)
NodeKey = NewType("NodeKey", bytes)
DiscoKey = NewType("DiscoKey", bytes)

KEY_SIZE = 32
ZERO_KEY = bytes(KEY_SIZE)


def _parse(text: str, prefix: str) -> bytes:
    if not text.startswith(prefix):
        raise BadRequest(f"a key must start with {prefix!r}", code="bad_key")
    digits = text[len(prefix) :]
    try:
        raw = bytes.fromhex(digits)
    except ValueError:
        raw = b""
    if len(digits) != 2 * KEY_SIZE or len(raw) != KEY_SIZE:
        raise BadRequest(f"a {prefix[:-1]} must have {2 * KEY_SIZE} hex digits", code="bad_key")
    return raw


def parse_machine_key(text: str) -> MachineKey:
    """`mkey:<64 hex>` to 32 bytes. Raises BadRequest."""
    return MachineKey(_parse(text, "mkey:"))


def parse_node_key(text: str) -> NodeKey:
    """`nodekey:<64 hex>` to 32 bytes. Raises BadRequest."""
    return NodeKey(_parse(text, "nodekey:"))


def parse_disco_key(text: str) -> DiscoKey:
    """`discokey:<64 hex>` to 32 bytes. Raises BadRequest."""
    return DiscoKey(_parse(text, "discokey:"))


def machine_key_text(key: bytes) -> str:
    return "mkey:" + key.hex()


def node_key_text(key: bytes) -> str:
    return "nodekey:" + key.hex()


def disco_key_text(key: bytes) -> str:
    return "discokey:" + key.hex()


def fingerprint(key: bytes) -> str:
    """First sixteen base-16 digits in groups of four, for people to compare."""
    digits = key.hex()
    return " ".join(digits[at : at + 4] for at in range(0, 16, 4))


def short(key: bytes) -> str:
    """First five base-16 digits in brackets, for logs."""
    return f"[{key.hex()[:5]}]"
