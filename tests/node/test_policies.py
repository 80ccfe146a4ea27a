"""Policies on their way from the database or a file into the hub, and what follows from them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.errors import ConfigError
from app.model import Device, DeviceId, StoredPolicy, Tenant, TenantId
from node.policies import TenantPolicies
from node.policy_file import PolicyFile
from tests.node import test_refresh
from tests.node.test_fanout import device
from tests.node.test_refresh import TENANT, Parts

TEN, NET = "10.0.0.0/8", "192.0.2.0/24"
APPROVES = """{"autoApprovers": {"routes": {"10.0.0.0/8": ["alice@"]}}}"""
FAILING = """{"acls": [], "tests": [{"src": "alice@", "accept": ["100.64.0.1:22"]}]}"""
BROKEN = '{\n  "acls": [}\n'


def stored(text: str, version: int = 1) -> StoredPolicy:
    return StoredPolicy(TENANT.id, version, text, "0" * 64, "ann", "", 0.0)


def router(number: int, announced: tuple[str, ...], approved: tuple[str, ...] = ()) -> Device:
    return replace(device(number), announced_routes=announced, approved_routes=approved)


def put(parts: Parts, text: str | None, version: int = 1) -> None:
    """Somebody else commits a policy, or takes the last one away."""
    if text is None:
        parts.database.policies.clear()
    else:
        parts.database.policies[TENANT.id] = stored(text, version)
    parts.database.tell("policy", kind="policy")


def in_force(parts: Parts) -> str | None:
    found = parts.hub.policies.in_force(TENANT.id)
    return None if found is None else found[0].text


def approved(parts: Parts, number: int) -> tuple[str, ...]:
    found = parts.hub.device(DeviceId(number))
    assert found is not None
    return found.approved_routes


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    found = Parts()
    found.database.commit(router(1, (TEN, NET)), router(2, ()))
    await found.refresher.load()
    found.database.reads.clear()
    yield found
    found.hub.remove_tenant(TENANT.id)


async def test_a_policy_arrives_changes_and_goes(parts: Parts) -> None:
    for text in ("{}", '{"acls": []}', None, "{}"):
        put(parts, text, len(parts.database.log))
        await parts.refresher.catch_up()
        assert in_force(parts) == text
    parts.database.reads.clear()
    await parts.refresher.catch_up()
    assert parts.database.reads == ["changes"]


async def test_a_load_brings_policies_and_takes_them_away(parts: Parts) -> None:
    put(parts, "{}")
    await parts.refresher.load()
    assert in_force(parts) == "{}"
    parts.database.policies.clear()
    await parts.refresher.load()
    assert in_force(parts) is None


async def test_a_tenant_that_returns_has_its_policy_again(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(parts, "{}")
    await parts.refresher.load()
    monkeypatch.setattr(test_refresh, "TENANT", Tenant(TenantId(2), "default", "other"))
    policies = dict(parts.database.policies)
    parts.database.policies.clear()
    await parts.refresher.load()
    assert parts.hub.tenant(TENANT.id) is None
    monkeypatch.undo()
    parts.database.policies.update(policies)
    await parts.refresher.load()
    assert in_force(parts) == "{}"


async def test_what_a_new_policy_covers_is_approved_in_one_write(parts: Parts) -> None:
    parts.database.commit(router(3, (TEN,)), router(4, (TEN,), (TEN,)), router(5, (NET,)))
    put(parts, APPROVES)
    await parts.refresher.catch_up()
    assert parts.database.reads.count("approvals") == 1
    assert [approved(parts, n) for n in (1, 3, 4, 5)] == [(TEN,), (TEN,), (TEN,), ()]
    # What the policy takes back stays approved, and what an administrator takes back stays so.
    put(parts, "{}", 2)
    parts.database.commit(router(3, (TEN,)))
    await parts.refresher.catch_up()
    assert [approved(parts, n) for n in (1, 3)] == [(TEN,), ()]
    assert parts.database.reads.count("approvals") == 1


@pytest.mark.parametrize("how", ["frozen", "database away"])
async def test_approvals_wait_until_they_can_be_written(parts: Parts, how: str) -> None:
    put(parts, APPROVES)
    if how == "frozen":
        parts.may_write = False
        await parts.refresher.catch_up()
        parts.may_write = True
    else:
        await parts.policies.reload([TENANT.id])
        parts.database.down = True
        assert await parts.policies.settle() == set()
        parts.database.down = False
    assert approved(parts, 1) == ()
    await parts.refresher.catch_up()
    assert approved(parts, 1) == (TEN,)


async def test_what_nobody_approved_while_no_owner_was_there(parts: Parts) -> None:
    parts.database.policies[TENANT.id] = stored(APPROVES)
    await parts.refresher.load()
    assert approved(parts, 1) == (TEN,)


@pytest.mark.parametrize("text", [FAILING, BROKEN], ids=["tests fail", "unreadable"])
async def test_a_stored_policy_that_does_not_pass_is_shouted_about(
    parts: Parts, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parts.database.policies[TENANT.id] = stored(text)
    await parts.refresher.load()
    assert parts.invalid == {"default": True}
    put(parts, "{}", 2)
    await parts.refresher.catch_up()
    assert parts.invalid == {"default": False}
    put(parts, text, 3)
    await parts.refresher.catch_up()
    assert parts.invalid == {"default": True}
    put(parts, None)
    await parts.refresher.catch_up()
    assert parts.invalid == {"default": False}


# -- the file -------------------------------------------------------------------------------------


def following(parts: Parts, path: Path, *, is_home: bool = True) -> TenantPolicies:
    file = PolicyFile(path)
    file.take()
    policies = TenantPolicies(
        parts.database, parts.hub, file=file, may_write=lambda: True, on_invalid=parts.invalid.__setitem__
    )
    parts.refresher._policies = policies
    return policies


async def test_the_home_tenants_policy_is_in_the_file(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_refresh, "TENANT", replace(TENANT, is_home=True))
    path = tmp_path / "policy.hujson"
    path.write_text(APPROVES)
    policies = following(parts, path)
    put(parts, '{"acls": []}')
    await parts.refresher.load()
    assert in_force(parts) == APPROVES
    assert approved(parts, 1) == (TEN,)
    put(parts, '{"grants": []}', 2)
    await parts.refresher.catch_up()
    assert in_force(parts) == APPROVES
    for text, taken in (("{}", True), (BROKEN, False), (FAILING, False), ('{"acls": []}', True)):
        before = in_force(parts)
        path.write_text(text)
        await policies.reload_file()
        assert in_force(parts) == (text if taken else before)
    path.unlink()
    await policies.reload_file()
    assert in_force(parts) == '{"acls": []}'


async def test_the_file_is_for_the_home_tenant_only(parts: Parts, tmp_path: Path) -> None:
    path = tmp_path / "policy.hujson"
    path.write_text('{"acls": []}')
    following(parts, path)
    put(parts, "{}")
    await parts.refresher.load()
    assert in_force(parts) == "{}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BROKEN.encode(), r"policy.path: .*policy.hujson: line 2, column 12: expected a value, found '}'"),
        (b'{"acls": [], "acl": []}', r'line 1, column 14: unknown field "acl" in the policy'),
        (b"", "line 1, column 1: expected a value, found the end of the text"),
        (b"\xff\xfe", "policy.hujson is not UTF-8"),
        (b" " * (1 << 23), "more than 1048576"),
        (None, "cannot read .*policy.hujson: No such file"),
    ],
    ids=["broken", "unknown field", "empty", "encoding", "long", "missing"],
)
def test_a_file_that_is_no_policy(tmp_path: Path, data: bytes | None, message: str) -> None:
    path = tmp_path / "policy.hujson"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        PolicyFile(path).take()


def test_a_standby_keeps_the_last_good_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.hujson"
    path.write_bytes(b"\xef\xbb\xbf{}")
    file = PolicyFile(path)
    file.take()
    for text, then in (('{"acls": []}', '{"acls": []}'), (BROKEN, '{"acls": []}'), ("{ }", "{ }")):
        path.write_text(text)
        file.try_again()
        assert file.text == then
    assert file.stored(TENANT.id).note == str(path)


def reach_each_other(parts: Parts, one: int, other: int) -> bool:
    """Whether two devices are each other's peers, once everything collected has taken effect."""
    netmap = parts.hub._tenants[TENANT.id].netmap
    netmap.commit()
    return netmap.engine.sees(*(netmap.engine.class_of(DeviceId(number)) for number in (one, other)))


@pytest.mark.parametrize(("text", "after"), [(None, True), ('{"acls": []}', False)])
async def test_until_it_is_known_whether_a_tenant_has_a_policy_nobody_reaches_anybody(
    text: str | None, after: bool
) -> None:
    """A device registers in a tenant that was made after the last load: its policy comes with the next."""
    parts = Parts()
    if text is not None:
        parts.database.policies[TENANT.id] = stored(text)
    parts.hub.put_tenant(TENANT, sure=False)
    for number in (1, 2):
        parts.own_commit(device(number))
    assert not reach_each_other(parts, 1, 2)
    await parts.refresher.load()
    assert reach_each_other(parts, 1, 2) is after
    parts.hub.remove_tenant(TENANT.id)


async def test_a_stored_text_that_cannot_be_read_opens_nothing(parts: Parts) -> None:
    put(parts, '{"acls": []}')
    await parts.refresher.catch_up()
    assert not reach_each_other(parts, 1, 2)
    put(parts, BROKEN, 2)
    await parts.refresher.catch_up()
    assert not reach_each_other(parts, 1, 2)


async def test_a_first_text_that_cannot_be_read_opens_nothing() -> None:
    parts = Parts()
    parts.database.policies[TENANT.id] = stored(BROKEN)
    parts.database.commit(device(1), device(2))
    await parts.refresher.load()
    assert not reach_each_other(parts, 1, 2)
    assert parts.invalid
    parts.hub.remove_tenant(TENANT.id)
