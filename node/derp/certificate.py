"""Files of a relay: its key, its TLS key and its self-signed certificate; and the certificate's pin.

Clients trust the certificate by `CertName: sha256-raw:<hex of the DER's SHA-256>`, and still check
name and dates (tailscale net/tlsdial/tlsdial.go SetConfigExpectedCertHash); so it names the host.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nacl.public import PrivateKey

from app.errors import ConfigError

CERTIFICATE_FILE = "derp-cert.pem"
TLS_KEY_FILE = "derp-tls-key.pem"
RELAY_KEY_FILE = "derp-key"
#: Text form of a private key file (tailscale types/key, headscale's key files).
PRIVATE_KEY_PREFIX = "privkey:"

VALIDITY_DAYS = 3650
#: Clients' clocks may be behind by this much.
BACKDATED_DAYS = 2
#: A certificate that ends within this time is made again.
RENEW_BEFORE_DAYS = 30
_PRIVATE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where certificate and TLS key are, and the certificate's pin."""

    certificate_path: Path
    key_path: Path
    pin: str


def load_or_create_relay_key(directory: Path) -> bytes:
    """The relay's curve25519 private key, made at the first call. Raises ConfigError."""
    path = directory / RELAY_KEY_FILE
    _make_directory(directory)
    try:
        text = path.read_text("ascii").strip()
    except FileNotFoundError:
        raw = bytes(PrivateKey.generate())
        _write_private(path, f"{PRIVATE_KEY_PREFIX}{raw.hex()}\n".encode())
        return raw
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the relay key {path} cannot be read: {error}") from error
    try:
        raw = bytes.fromhex(text.removeprefix(PRIVATE_KEY_PREFIX))
    except ValueError:
        raw = b""
    if len(raw) != PrivateKey.SIZE:
        raise ConfigError(f"the relay key {path} must hold {PRIVATE_KEY_PREFIX} and 64 hex digits")
    return raw


def load_or_create_certificate(directory: Path, names: Sequence[str], now: datetime.datetime) -> Certificate:
    """The stored certificate if it has exactly these names and lasts, else a new one.

    `names`: host names or address literals, the first one is what clients dial. Raises ConfigError.
    """
    _make_directory(directory)
    certificate_path, key_path = directory / CERTIFICATE_FILE, directory / TLS_KEY_FILE
    wanted = _general_names(names)
    try:
        stored = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except FileNotFoundError:
        stored = None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"the relay's certificate in {directory} cannot be read: {error}") from error
    if stored is None or key.public_key() != stored.public_key() or not _is_usable(stored, wanted, now):
        stored = _create(certificate_path, key_path, wanted, now)
    return Certificate(certificate_path, key_path, certificate_pin(stored))


def certificate_pin(certificate: x509.Certificate) -> str:
    """`sha256-raw:<hex>` of a certificate, as DERPNode.CertName wants it."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    return "sha256-raw:" + hashlib.sha256(der).hexdigest()


def server_context(certificate: Certificate) -> ssl.SSLContext:
    """TLS 1.2 or newer, with this one certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate.certificate_path, certificate.key_path)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    result: list[x509.GeneralName] = []
    for name in names:
        try:
            general: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            general = x509.DNSName(name)
        if general not in result:
            result.append(general)
    return result


def _is_usable(stored: x509.Certificate, wanted: list[x509.GeneralName], now: datetime.datetime) -> bool:
    try:
        names = list(stored.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return False
    lasts = stored.not_valid_after_utc - now > datetime.timedelta(days=RENEW_BEFORE_DAYS)
    return lasts and stored.not_valid_before_utc <= now and names == wanted


def _create(
    certificate_path: Path, key_path: Path, names: list[x509.GeneralName], now: datetime.datetime
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "relay")])
    key_usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=BACKDATED_DAYS))
        .not_valid_after(now + datetime.timedelta(days=VALIDITY_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage, critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The key first: a certificate without its key would be found as a pair that does not fit.
    _write_private(key_path, private)
    _write_private(certificate_path, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the relay's data directory {directory} cannot be made: {error}") from error


def _write_private(path: Path, content: bytes) -> None:
    """Replaces a file as a whole; readable for its owner only."""
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), _PRIVATE_MODE)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
