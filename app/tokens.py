"""Auth keys `hskey-auth-<tenant_id>-<prefix>-<secret>`, API tokens `hskey-api-<prefix>-<secret>`. Pure.

Randomness comes in. Only the prefix and the SHA-256 of the 256-bit secret are stored. Hex keeps `--TL`
out, where clients cut (tailscale tka/sig.go DecodeWrappedAuthkey).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from app.errors import BadRequest

PREFIX_BYTES = 6
SECRET_BYTES = 32
RANDOM_BYTES = PREFIX_BYTES + SECRET_BYTES

_MAX_ID = 2**63 - 1
_FORM = re.compile(r"hskey-auth-([1-9][0-9]{0,18})-([0-9a-f]{12})-([0-9a-f]{64})", re.ASCII)
_JOIN_FORM = re.compile(r"hskey-join-([0-9a-f]{12})-([0-9a-f]{64})", re.ASCII)
_API_FORM = re.compile(r"hskey-api-([0-9a-f]{12})-([0-9a-f]{64})", re.ASCII)
_PREFIX = re.compile(r"[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class AuthToken:
    """What the database may know of an auth key."""

    tenant_id: int
    prefix: str
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredJoinToken:
    """What the database may know of a token to join with."""

    prefix: str
    hash: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class StoredApiToken:
    """What the database may know of an API token."""

    prefix: str
    hash: bytes = field(repr=False)


def make_auth_token(tenant_id: int, random: bytes) -> tuple[str, AuthToken]:
    """The text to show once, and its stored part, from RANDOM_BYTES random bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"an auth key needs {RANDOM_BYTES} random bytes")
    prefix, secret = random[:PREFIX_BYTES].hex(), random[PREFIX_BYTES:].hex()
    return f"hskey-auth-{tenant_id}-{prefix}-{secret}", AuthToken(tenant_id, prefix, _digest(secret))


def check_auth_token(prefix: str, digest: bytes) -> None:
    """Raises BadRequest unless a stored part has the form of ours."""
    if not _PREFIX.fullmatch(prefix) or len(digest) != hashlib.sha256().digest_size:
        raise BadRequest(
            f"an auth key is stored as {2 * PREFIX_BYTES} hex digits and the SHA-256 of its secret",
            code="bad_auth_key",
        )


def parse_auth_token(text: str) -> AuthToken | None:
    """The stored part of a key text, None when it is not one of ours."""
    match = _FORM.fullmatch(text.strip())
    if match is None or int(match[1]) > _MAX_ID:
        return None
    return AuthToken(int(match[1]), match[2], _digest(match[3]))


def make_api_token(random: bytes) -> tuple[str, StoredApiToken]:
    """The text to show once, and its stored part, from RANDOM_BYTES random bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"an API token needs {RANDOM_BYTES} random bytes")
    prefix, secret = random[:PREFIX_BYTES].hex(), random[PREFIX_BYTES:].hex()
    return f"hskey-api-{prefix}-{secret}", StoredApiToken(prefix, _digest(secret))


def parse_api_token(text: str) -> StoredApiToken | None:
    """The stored part of a token text, None when it is not one of ours."""
    match = _API_FORM.fullmatch(text.strip())
    return None if match is None else StoredApiToken(match[1], _digest(match[2]))


def make_join_token(random: bytes) -> tuple[str, StoredJoinToken]:
    """The text to show once, and its stored part, from RANDOM_BYTES random bytes."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a join token needs {RANDOM_BYTES} random bytes")
    prefix, secret = random[:PREFIX_BYTES].hex(), random[PREFIX_BYTES:].hex()
    return f"hskey-join-{prefix}-{secret}", StoredJoinToken(prefix, _digest(secret))


def parse_join_token(text: str) -> StoredJoinToken | None:
    """The stored part of a token text, None when it is not one of ours."""
    match = _JOIN_FORM.fullmatch(text.strip())
    return None if match is None else StoredJoinToken(match[1], _digest(match[2]))


def _digest(secret: str) -> bytes:
    return hashlib.sha256(bytes.fromhex(secret)).digest()
