"""Restart, rotation, logout, expiry and deletion of a device, as it and its peers see them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from app.client.device import SimulatedDevice
from app.errors import Unavailable
from app.keys import node_key_text
from app.wire.tailcfg import parse_time
from tests.node.support import (
    DEADLINE_S,
    QUICK,
    Administration,
    ServeProcess,
    device,
    fresh_database,
    has_peers,
    join,
    new_tenant,
    own_id,
    peer,
    run_sql,
)

HOUR_S = 3600.0


def key_expiry(row: dict[str, Any] | None) -> float | None:
    assert row is not None
    return parse_time(row["KeyExpiry"], "KeyExpiry") if row.get("KeyExpiry") else None


async def peer_becomes(
    viewer: SimulatedDevice, other: SimulatedDevice, test: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The row of a peer as soon as it passes the test."""

    def passes(_: object) -> bool:
        row = peer(viewer, other)
        return row is not None and test(row)

    await viewer.wait_for(passes, DEADLINE_S)
    row = peer(viewer, other)
    assert row is not None
    return row


async def self_becomes(one: SimulatedDevice, test: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    netmap = await one.wait_for(lambda n: n.self_node is not None and test(n.self_node), DEADLINE_S)
    assert netmap.self_node is not None
    return netmap.self_node


def is_past(row: dict[str, Any]) -> bool:
    at = key_expiry(row)
    return at is not None and at <= time.time()


# -- restart ------------------------------------------------------------------------------------


async def _nothing(place: Administration, serve: ServeProcess, key_id: int) -> None:
    return


async def _expire(place: Administration, serve: ServeProcess, key_id: int) -> None:
    await run_sql(serve.dsn, f"UPDATE pre_auth_keys SET expiration = '2024-01-01' WHERE id = {key_id}")


async def _revoke(place: Administration, serve: ServeProcess, key_id: int) -> None:
    await place.scoped.revoke_auth_key(place.tenant.id, key_id)


async def _delete(place: Administration, serve: ServeProcess, key_id: int) -> None:
    await run_sql(serve.dsn, f"UPDATE nodes SET auth_key_id = NULL WHERE auth_key_id = {key_id}")
    await run_sql(serve.dsn, f"DELETE FROM pre_auth_keys WHERE id = {key_id}")


FATES = {"kept": _nothing, "expired": _expire, "revoked": _revoke, "deleted": _delete}


@pytest.mark.parametrize("fate", FATES.values(), ids=FATES.keys())
@pytest.mark.parametrize("reusable", [True, False], ids=["reusable", "single use"])
@pytest.mark.parametrize("with_key", [True, False], ids=["with key", "without"])
async def test_a_restart_changes_nothing_whatever_became_of_the_auth_key(
    serve: ServeProcess,
    place: Administration,
    fate: Callable[[Administration, ServeProcess, int], Awaitable[None]],
    reusable: bool,
    with_key: bool,
) -> None:
    row, text = await place.auth_key_row(reusable=reusable)
    async with device(serve.url, text) as one:
        await join(one, poll=False)
        await fate(place, serve, row.id)
        before = await place.device(one.hostname)
        if not with_key:
            one.auth_key = None
        answer = await one.register(OldNodeKey=node_key_text(one.node_key))
        assert (answer["Error"], answer["NodeKeyExpired"]) == ("", False)
        assert answer["User"]["ID"] == before.user_id
        assert await place.device(one.hostname) == before
        await one.poll()
        await has_peers(one)


# -- rotation -----------------------------------------------------------------------------------


async def test_rotation_keeps_id_addresses_and_name_and_peers_get_the_new_key(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        before, old_row = await place.device(one.hostname), peer(viewer, one)
        old_key, full_maps = one.node_key, [m.kind for m in viewer.messages].count("full")
        assert not (await one.rotate())["Error"]
        assert one.node_key != old_key
        await has_peers(viewer, one)
        row, after = peer(viewer, one), await place.device(one.hostname)
        assert old_row is not None
        assert row is not None
        for name in ("ID", "StableID", "Name", "Addresses", "User"):
            assert row[name] == old_row[name]
        assert (after.id, after.ipv4, after.ipv6, after.given_name) == (
            before.id,
            before.ipv4,
            before.ipv6,
            before.given_name,
        )
        assert after.node_key == one.node_key
        assert [m.kind for m in viewer.messages].count("full") == full_maps
        assert not viewer.violations
        await has_peers(one, viewer)


async def test_the_old_node_key_is_nobody_after_a_rotation(
    serve: ServeProcess, place: Administration
) -> None:
    async with device(serve.url, await place.auth_key()) as one:
        await join(one, poll=False)
        private, public = one.node_private, one.node_key
        await one.rotate()
        one.node_private, one.node_key = private, public
        with pytest.raises(Unavailable) as refused:
            await one.update(home_derp=1)
        assert refused.value.facts["status"] == 404


async def test_the_node_key_of_another_machine_is_refused(serve: ServeProcess, place: Administration) -> None:
    key = await place.auth_key()
    async with (
        device(serve.url, key) as owner,
        device(serve.url, key, node_private=owner.node_private) as thief,
    ):
        await join(owner)
        before = await place.devices()
        answer = await thief.register()
        assert answer["Error"] == (
            "this node key belongs to another machine: log out on this device, then log in again"
        )
        assert await place.devices() == before
        with pytest.raises(Unavailable) as refused:
            await thief.update(home_derp=1)
        assert refused.value.facts["status"] == 404
        assert owner.is_polling
        assert not owner.failures


async def test_another_users_key_on_the_same_machine_is_another_device(
    serve: ServeProcess, place: Administration
) -> None:
    async with (
        device(serve.url, await place.auth_key("alice")) as alices,
        device(
            serve.url,
            await place.auth_key("bob"),
            machine_private=alices.machine_private,
            hostname=alices.hostname,
        ) as bobs,
    ):
        await join(alices)
        await join(bobs)
        await has_peers(alices, bobs)
        await has_peers(bobs, alices)
        first, second = await place.devices()
    assert first.machine_key == second.machine_key
    assert first.user_id != second.user_id
    assert first.ipv4 != second.ipv4
    assert second.given_name == f"{first.given_name}-1"


# -- logout -------------------------------------------------------------------------------------


async def test_logout_ends_the_login_and_peers_are_told(serve: ServeProcess, place: Administration) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        answer = await one.logout()
        assert answer["Error"] == ""
        row = await peer_becomes(viewer, one, lambda r: bool(r.get("Expired")))
        assert is_past(row)
        stored = await place.device(one.hostname)
        assert stored.expiry is not None
        assert stored.expiry <= time.time()
        assert stored.expiry > time.time() - HOUR_S


async def test_logout_with_an_auth_key_is_a_logout(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, await place.auth_key()) as one:
        await join(one, poll=False)
        await one.logout()
        assert (await place.device(one.hostname)).expiry is not None
        assert (await one.register())["NodeKeyExpired"]


async def test_logout_of_an_ephemeral_device_deletes_it(serve: ServeProcess, place: Administration) -> None:
    key = await place.auth_key(ephemeral=True)
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        await one.logout()
        await has_peers(viewer)
        assert [row.hostname for row in await place.devices()] == [viewer.hostname]


async def test_a_second_logout_is_answered_alike(serve: ServeProcess, place: Administration) -> None:
    async with device(serve.url, await place.auth_key(ephemeral=True)) as one:
        await join(one, poll=False)
        assert await one.logout() == await one.logout()


async def test_the_logout_of_another_machine_does_nothing(serve: ServeProcess, place: Administration) -> None:
    key = await place.auth_key()
    async with (
        device(serve.url, key) as owner,
        device(serve.url, key, node_private=owner.node_private) as thief,
    ):
        await join(owner)
        assert "another machine" in (await thief.logout())["Error"]
        assert (await place.device(owner.hostname)).expiry is None


async def test_login_after_logout_keeps_id_and_addresses(serve: ServeProcess, place: Administration) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        before = await place.device(one.hostname)
        await one.logout()
        assert not (await one.rotate())["Error"]
        await one.poll()
        await has_peers(one, viewer)
        await has_peers(viewer, one)
        row = await peer_becomes(viewer, one, lambda r: not r.get("Expired") and bool(r.get("Online")))
        assert key_expiry(row) is None
        after = await place.device(one.hostname)
    assert (after.id, after.ipv4, after.ipv6, after.given_name) == (
        before.id,
        before.ipv4,
        before.ipv6,
        before.given_name,
    )
    assert after.expiry is None


# -- expiry -------------------------------------------------------------------------------------


async def test_an_expired_node_key_is_told_so_at_registration(
    serve: ServeProcess, place: Administration
) -> None:
    """Even with a good auth key: the client then makes a new node key and registers again."""
    async with device(serve.url, await place.auth_key()) as one:
        await join(one, poll=False)
        before = await place.device(one.hostname)
        await place.scoped.expire_device(place.tenant.id, before.id, time.time())
        answer = await one.register()
        assert (answer["NodeKeyExpired"], answer["Error"], answer["AuthURL"]) == (True, "", "")
        assert not (await one.rotate())["Error"]
        assert (await place.device(one.hostname)).id == before.id


async def test_expiry_and_its_end_reach_the_device_and_its_peers_while_its_poll_stays_open(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        await has_peers(one, viewer)
        place_id = place.tenant.id
        await place.scoped.expire_device(place_id, own_id(one), time.time())
        await self_becomes(one, is_past)
        await peer_becomes(viewer, one, lambda r: bool(r.get("Expired")) and is_past(r))
        await place.scoped.expire_device(place_id, own_id(one), None)
        await self_becomes(one, lambda r: key_expiry(r) is None and not r.get("Expired"))
        await peer_becomes(viewer, one, lambda r: key_expiry(r) is None and not r.get("Expired"))
        await has_peers(one, viewer)
        assert not one.failures
        assert not viewer.violations
        assert viewer.polls == 1


async def test_a_key_that_runs_out_by_the_clock_is_told_to_everybody(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        await place.scoped.expire_device(place.tenant.id, own_id(one), time.time() + 1.5)
        row = await peer_becomes(viewer, one, lambda r: key_expiry(r) is not None)
        assert not row.get("Expired")
        row = await peer_becomes(viewer, one, lambda r: bool(r.get("Expired")))
        assert is_past(row)
        assert (await one.register())["NodeKeyExpired"]


@pytest.fixture
async def limited(pg_server: str) -> AsyncIterator[ServeProcess]:
    """A server whose node keys live for an hour."""
    async with (
        fresh_database(pg_server) as dsn,
        ServeProcess(dsn, settings={**QUICK, "HS_NODE__EXPIRY": "1h"}) as process,
    ):
        yield process


async def test_a_key_lifetime_is_given_to_users_devices_only(limited: ServeProcess) -> None:
    async with new_tenant(limited) as place:
        tagged_key = await place.auth_key(None, tags=("tag:web",))
        async with (
            device(limited.url, await place.auth_key()) as one,
            device(limited.url, tagged_key) as tagged,
        ):
            started = time.time()
            await join(one)
            await join(tagged)
            expiry = key_expiry(one.netmap.self_node)
            assert expiry is not None
            assert started + HOUR_S - 5 <= expiry <= time.time() + HOUR_S + 5
            assert key_expiry(tagged.netmap.self_node) is None
            # A restart does not prolong it, a new login does.
            assert not (await one.register())["Error"]
            assert key_expiry(await self_becomes(one, lambda r: True)) == expiry
            await place.scoped.expire_device(place.tenant.id, own_id(one), expiry - 1800)
            await self_becomes(one, lambda r: key_expiry(r) == expiry - 1800)
            await one.rotate()
            row = await self_becomes(one, lambda r: (key_expiry(r) or 0) > expiry - 1800)
            assert key_expiry(row) != expiry


WISHES = {
    "sooner": (+600.0, True),
    "later": (+7200.0, False),
}


@pytest.mark.parametrize(("offset_s", "counts"), WISHES.values(), ids=WISHES.keys())
async def test_a_device_may_shorten_its_expiry_and_never_prolong_it(
    serve: ServeProcess, place: Administration, offset_s: float, counts: bool
) -> None:
    wish = round(time.time() + offset_s)
    async with device(serve.url, await place.auth_key()) as one:
        await join(one)
        now_ends = round(time.time() + HOUR_S)
        await place.scoped.expire_device(place.tenant.id, own_id(one), now_ends)
        await self_becomes(one, lambda r: key_expiry(r) == now_ends)
        text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wish))
        assert not (await one.register(Expiry=text))["Error"]
        stored = await place.device(one.hostname)
        assert stored.expiry == (wish if counts else now_ends)
        await self_becomes(one, lambda r: key_expiry(r) == stored.expiry)
        # Peers and the device go on as before: it is no logout.
        assert not (await one.register())["NodeKeyExpired"]


# -- deletion -----------------------------------------------------------------------------------


async def test_a_deleted_device_is_told_that_it_is_out_and_peers_forget_it(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        await has_peers(one, viewer)
        await place.scoped.delete_device(place.tenant.id, own_id(one))
        await has_peers(viewer)
        row = await self_becomes(one, is_past)
        assert row["Key"] == node_key_text(one.node_key)
        # Its next poll is told the same and stays open.
        await one.wait_for(lambda n: one.polls >= 2 and n.self_node is not None, DEADLINE_S)
        assert is_past(await self_becomes(one, is_past))
        assert not one.netmap.peers
        assert not viewer.violations


async def test_a_device_deleted_while_offline_is_told_on_its_return(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        await has_peers(viewer, one)
        await one.close()
        await peer_becomes(viewer, one, lambda r: r.get("Online") is False)
        await place.scoped.delete_device(place.tenant.id, own_id(one))
        await has_peers(viewer)
        await one.poll()
        await one.wait_for(lambda n: one.polls == 2 and n.self_node is not None, DEADLINE_S)
        assert is_past(await self_becomes(one, is_past))
        # The same stream serves on: whatever else arrives, it is not cut for another poll.
        await one.update(home_derp=1)
        assert one.polls == 2
        assert one.is_polling
        assert not one.failures


async def test_a_deleted_device_with_a_good_auth_key_comes_back_as_a_new_one(
    serve: ServeProcess, place: Administration
) -> None:
    key = await place.auth_key()
    async with device(serve.url, key) as viewer, device(serve.url, key) as one:
        await join(viewer)
        await join(one)
        old_id = own_id(one)
        await has_peers(viewer, one)
        await place.scoped.delete_device(place.tenant.id, old_id)
        await has_peers(viewer)
        await one.close()
        await join(one)
        await has_peers(one, viewer)
        await has_peers(viewer, one)
        assert own_id(one) != old_id
        assert (await place.device(one.hostname)).node_key == one.node_key
        assert not viewer.violations


async def test_a_deleted_device_without_auth_key_must_log_in(
    serve: ServeProcess, place: Administration
) -> None:
    async with device(serve.url, await place.auth_key()) as one:
        await join(one)
        await place.scoped.delete_device(place.tenant.id, own_id(one))
        await self_becomes(one, is_past)
        one.auth_key = None
        assert (await one.register())["AuthURL"].startswith(f"{serve.url}/register/")


async def test_who_was_never_here_gets_404_and_no_farewell(
    serve: ServeProcess, place: Administration
) -> None:
    """A farewell needs proof: on a mistake a client would log itself out."""
    async with device(serve.url, None) as stranger:
        with pytest.raises(Unavailable) as refused:
            await stranger.update(home_derp=1)
        assert refused.value.facts["status"] == 404
