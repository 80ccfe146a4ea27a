"""Certificate, key files and pin."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import stat
from pathlib import Path

import pytest
from derp_client import HOST, DerpClient, running_relay
from nacl.public import PrivateKey

from app.errors import ConfigError
from node.derp import certificate
from node.derp.certificate import load_or_create_certificate, load_or_create_relay_key

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def test_certificate_is_kept(tmp_path: Path) -> None:
    first = load_or_create_certificate(tmp_path, ["relay.example"], NOW)
    assert first.pin.startswith("sha256-raw:")
    assert len(first.pin) == len("sha256-raw:") + 64
    assert load_or_create_certificate(tmp_path, ["relay.example"], NOW) == first


@pytest.mark.parametrize(
    ("names", "after_days"),
    [
        (["other.example"], 0),
        (["relay.example", "192.0.2.1"], 0),
        (["relay.example"], certificate.VALIDITY_DAYS - certificate.RENEW_BEFORE_DAYS + 1),
        (["relay.example"], -certificate.BACKDATED_DAYS - 1),
    ],
)
def test_certificate_is_made_again(tmp_path: Path, names: list[str], after_days: int) -> None:
    first = load_or_create_certificate(tmp_path, ["relay.example"], NOW)
    later = NOW + datetime.timedelta(days=after_days)
    assert load_or_create_certificate(tmp_path, names, later).pin != first.pin


def test_certificate_without_its_key_is_made_again(tmp_path: Path) -> None:
    first = load_or_create_certificate(tmp_path, ["relay.example"], NOW)
    other = load_or_create_certificate(tmp_path / "other", ["relay.example"], NOW)
    first.key_path.write_bytes(other.key_path.read_bytes())
    assert load_or_create_certificate(tmp_path, ["relay.example"], NOW).pin != first.pin
    first.key_path.unlink()
    load_or_create_certificate(tmp_path, ["relay.example"], NOW)
    assert first.key_path.exists()


def test_files_are_private(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "derp"
    load_or_create_certificate(directory, ["relay.example"], NOW)
    load_or_create_relay_key(directory)
    files = sorted(path.name for path in directory.iterdir())
    assert files == sorted(
        (certificate.CERTIFICATE_FILE, certificate.TLS_KEY_FILE, certificate.RELAY_KEY_FILE)
    )
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_relay_key_is_kept(tmp_path: Path) -> None:
    key = load_or_create_relay_key(tmp_path)
    assert len(key) == 32
    assert load_or_create_relay_key(tmp_path) == key
    (tmp_path / certificate.RELAY_KEY_FILE).write_text("privkey:" + bytes(PrivateKey(b"\x07" * 32)).hex())
    assert load_or_create_relay_key(tmp_path) == b"\x07" * 32


@pytest.mark.parametrize("text", ["", "privkey:", "privkey:" + "0" * 62, "privkey:" + "g" * 64, "ä"])
def test_broken_relay_key_is_named_and_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / certificate.RELAY_KEY_FILE
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=certificate.RELAY_KEY_FILE):
        load_or_create_relay_key(tmp_path)
    assert path.read_text("utf-8") == text


def test_broken_certificate_is_named(tmp_path: Path) -> None:
    load_or_create_certificate(tmp_path, ["relay.example"], NOW)
    (tmp_path / certificate.CERTIFICATE_FILE).write_text("nonsense")
    with pytest.raises(ConfigError, match="certificate"):
        load_or_create_certificate(tmp_path, ["relay.example"], NOW)


def test_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        load_or_create_relay_key(tmp_path / "file" / "derp")


async def test_clients_see_the_pin_and_the_name(tmp_path: Path) -> None:
    async with running_relay(tmp_path) as (_, port):
        now = datetime.datetime.now(datetime.UTC)
        stored = load_or_create_certificate(tmp_path, [HOST], now)
        client = await DerpClient.dial(port)
        assert client.pin == stored.pin
        await client.close()
        # A full check of name and dates, with the certificate itself as root.
        context = ssl.create_default_context(cafile=str(stored.certificate_path))
        _, writer = await asyncio.open_connection(HOST, port, ssl=context)
        writer.transport.abort()
