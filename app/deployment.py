"""The Noise key of the deployment: one for all entries and nodes, sealed in the database.

Running clients never fetch `/key` again, so there is never a second key: a process without the secret
file that opens the sealed one stops.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Protocol

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from app.errors import ConfigError

NOISE_KEY_NAME = "noise_private_key"
KEY_SIZE = 32
KEY_ID_BYTES = 8
MAGIC = b"HS1"
FILE_MODE = 0o600


class SecretStore(Protocol):
    """Where sealed secrets are kept, such as app.db.setup.Database."""

    async def deployment_secret(self, name: str) -> bytes | None: ...

    async def put_deployment_secret_once(self, name: str, value: bytes) -> bytes: ...


async def load_or_create_noise_key(store: SecretStore, secret_key_file: Path) -> bytes:
    """The deployment's X25519 private key, 32 bytes; the very first start makes it and the secret file.

    Raises ConfigError when the secret file is missing, unreadable or not the one that sealed the key.
    """
    sealed = await store.deployment_secret(NOISE_KEY_NAME)
    if sealed is None:
        secret = await asyncio.to_thread(_read_or_create, secret_key_file)
        sealed = await store.put_deployment_secret_once(NOISE_KEY_NAME, seal(secret, random(KEY_SIZE)))
    else:
        secret = await asyncio.to_thread(_read, secret_key_file, key_id_of(sealed))
    return unseal(secret, sealed, secret_key_file)


def key_id(secret: bytes) -> bytes:
    """What names a secret key without telling it."""
    return hashlib.sha256(b"headscale-cluster key id" + secret).digest()[:KEY_ID_BYTES]


def key_id_of(sealed: bytes) -> str:
    """The id, in hex, of the secret key that opens a sealed value. Raises ConfigError."""
    if not sealed.startswith(MAGIC):
        raise ConfigError("the Noise key in the database is sealed in a form this program does not know")
    return sealed[len(MAGIC) : len(MAGIC) + KEY_ID_BYTES].hex()


def seal(secret: bytes, value: bytes) -> bytes:
    return MAGIC + key_id(secret) + bytes(SecretBox(secret).encrypt(value))


def unseal(secret: bytes, sealed: bytes, path: Path) -> bytes:
    """The value inside. Raises ConfigError naming the id that is needed and the file without it."""
    wanted = key_id_of(sealed)
    if key_id(secret).hex() != wanted:
        raise ConfigError(
            f"secret_key_file {path} holds key {key_id(secret).hex()}, but the Noise key of this deployment"
            f" is sealed with key {wanted}: copy the file from the first host",
            code="secret_key_wrong",
        )
    try:
        return bytes(SecretBox(secret).decrypt(sealed[len(MAGIC) + KEY_ID_BYTES :]))
    except CryptoError as error:
        text = "the sealed Noise key in the database is damaged"
        raise ConfigError(text, code="secret_damaged") from error


def _read_or_create(path: Path) -> bytes:
    if not path.exists():
        _create(path)
    return _read(path, "of this deployment")


def _create(path: Path) -> None:
    """Writes a new key so that nobody ever sees half a file and of two starters one wins."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{random(4).hex()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        try:
            os.write(descriptor, random(KEY_SIZE).hex().encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        try:
            os.link(draft, path)
        except FileExistsError:
            return
        finally:
            draft.unlink()
    except OSError as error:
        raise ConfigError(f"secret_key_file {path} cannot be created: {error}") from error


def _read(path: Path, wanted: str) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
        secret = bytes.fromhex(text)
    except FileNotFoundError as error:
        raise ConfigError(
            f"secret_key_file {path} is missing: it must hold key {wanted}; copy it from the first host",
            code="secret_key_missing",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"secret_key_file {path} cannot be read ({error}): it must hold key {wanted};"
            " copy it from the first host",
            code="secret_key_unreadable",
        ) from error
    if len(secret) != KEY_SIZE:
        raise ConfigError(
            f"secret_key_file {path} must hold {2 * KEY_SIZE} hex digits, key {wanted}:"
            " copy it from the first host",
            code="secret_key_unreadable",
        )
    return secret
