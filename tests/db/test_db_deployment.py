"""The deployment's Noise key: one for ever, sealed, and clear words when the secret file is not there."""

from __future__ import annotations

import asyncio
import re
import shutil
import stat
from pathlib import Path

import pytest

from app.db.setup import Database
from app.deployment import FILE_MODE, KEY_SIZE, NOISE_KEY_NAME, key_id_of, load_or_create_noise_key
from app.errors import ConfigError


async def test_first_start_makes_and_others_open(prepared: Database, tmp_path: Path) -> None:
    path = tmp_path / "state" / "secret.key"
    key = await load_or_create_noise_key(prepared, path)
    assert len(key) == KEY_SIZE
    assert stat.S_IMODE(path.stat().st_mode) == FILE_MODE
    assert await load_or_create_noise_key(prepared, path) == key
    copy = tmp_path / "copy.key"
    shutil.copy(path, copy)
    assert await load_or_create_noise_key(prepared, copy) == key
    assert [entry.name for entry in path.parent.iterdir()] == ["secret.key"]


async def test_many_first_starts_on_one_host(prepared: Database, tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    keys = await asyncio.gather(*(load_or_create_noise_key(prepared, path) for _ in range(8)))
    assert len(set(keys)) == 1


async def test_first_starts_on_two_hosts_leave_one_key(prepared: Database, tmp_path: Path) -> None:
    paths = [tmp_path / host / "secret.key" for host in ("one", "two")]
    answers = await asyncio.gather(
        *(load_or_create_noise_key(prepared, path) for path in paths), return_exceptions=True
    )
    keys = [answer for answer in answers if isinstance(answer, bytes)]
    errors = [answer for answer in answers if isinstance(answer, ConfigError)]
    assert (len(keys), len(errors)) == (1, 1)
    assert re.search("copy (it|the file) from the first host", errors[0].message)


async def test_missing_wrong_and_damaged(prepared: Database, tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    await load_or_create_noise_key(prepared, path)
    sealed = await prepared.deployment_secret(NOISE_KEY_NAME)
    assert sealed is not None
    wanted = key_id_of(sealed)
    good = path.read_text()
    cases = [
        (None, "secret_key_missing"),
        ("", "secret_key_unreadable"),
        ("zz" * 32, "secret_key_unreadable"),
        (good[:-3], "secret_key_unreadable"),
        (good.strip() + "00", "secret_key_unreadable"),
        ("ü", "secret_key_unreadable"),
        ("00" * 32, "secret_key_wrong"),
    ]
    for text, code in cases:
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as raised:
            await load_or_create_noise_key(prepared, path)
        assert raised.value.code == code
        for part in (wanted, str(path), "from the first host"):
            assert part in raised.value.message
    assert await prepared.deployment_secret(NOISE_KEY_NAME) == sealed


async def test_a_directory_that_cannot_be_made(prepared: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be created"):
        await load_or_create_noise_key(prepared, tmp_path / "file" / "secret.key")
    assert await prepared.deployment_secret(NOISE_KEY_NAME) is None


@pytest.mark.parametrize(("value", "code"), [(b"HS9xxx", "config"), (b"HS1", "secret_key_wrong")])
async def test_foreign_forms(prepared: Database, tmp_path: Path, value: bytes, code: str) -> None:
    (tmp_path / "secret.key").write_text("00" * 32)
    await prepared.put_deployment_secret_once(NOISE_KEY_NAME, value)
    with pytest.raises(ConfigError) as raised:
        await load_or_create_noise_key(prepared, tmp_path / "secret.key")
    assert raised.value.code == code


async def test_the_first_value_stays(prepared: Database) -> None:
    values = await asyncio.gather(*(prepared.put_deployment_secret_once("x", bytes([n])) for n in range(8)))
    assert len(set(values)) == 1
    assert await prepared.deployment_secret("x") == values[0]
    assert await prepared.deployment_secret("y") is None
