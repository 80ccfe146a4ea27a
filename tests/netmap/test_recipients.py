"""Who hears of what: for every kind of change the devices that get a message, and all others get none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from app.keys import DiscoKey, NodeKey
from app.model import Device, DeviceId, User, UserId
from app.netmap.dns import DnsPlan
from app.netmap.tenant import TenantNetmap
from app.netmap.variant import Variant
from app.policy.document import Policy
from app.policy.reader import read
from tests.netmap.support import NOW, TENANT, key, make_device, make_netmap

ROUTE = ("10.0.0.0/24",)
RULES = (
    ("user1@", "tag:server:22"),
    ("user2@", "tag:printer:80"),
    ("user2@", "10.0.0.0/24:*"),
    ("autogroup:member", "autogroup:self:*"),
)
# 1, 2: user1's, who see each other and server 4. 3: user2's, who sees printer 5 and the routers 6 and 7 of
# one subnet. 8: user3's, who sees nobody.
ALICE, PHONE, BOB, SERVER, PRINTER, ROUTER, SPARE, CAROL = range(1, 9)
EVERYBODY = set(range(1, 9))


def policy(*rules: tuple[str, str]) -> Policy:
    tags = {tag: ["user1@"] for tag in ("tag:server", "tag:printer", "tag:router")}
    acls = [{"action": "accept", "src": [src], "dst": [dst]} for src, dst in rules]
    return read(json.dumps({"tagOwners": tags, "acls": acls}))


def tagged(number: int, tag: str, **more: Any) -> Device:
    return make_device(number, user_id=None, tags=(tag,), **more)


def place() -> TenantNetmap:
    netmap = make_netmap(policy(*RULES))
    netmap.put(make_device(ALICE, user_id=UserId(1)))
    netmap.put(make_device(PHONE, user_id=UserId(1)))
    netmap.put(make_device(BOB, user_id=UserId(2)))
    netmap.put(tagged(SERVER, "tag:server"))
    netmap.put(tagged(PRINTER, "tag:printer"))
    for number in (ROUTER, SPARE):
        netmap.put(tagged(number, "tag:router", announced_routes=ROUTE, approved_routes=ROUTE))
    netmap.put(make_device(CAROL, user_id=UserId(3)))
    netmap.commit()
    for device in netmap.devices():  # as if all were connected
        netmap.full_map(device.id, Variant.PLAIN, NOW)
    return netmap


def edited(number: int, **facts: Any) -> Callable[[TenantNetmap], None]:
    def edit(netmap: TenantNetmap) -> None:
        device = netmap.device(DeviceId(number))
        assert device is not None
        netmap.put(replace(device, **facts))

    return edit


def with_policy(*rules: tuple[str, str]) -> Callable[[TenantNetmap], None]:
    return lambda netmap: netmap.set_policy(policy(*rules))


#: A kind of change, and who hears of it.
CHANGES: dict[str, tuple[Callable[[TenantNetmap], None], set[int]]] = {
    "nothing": (edited(SERVER), set()),
    "endpoints": (edited(SERVER, endpoints=("192.0.2.1:1",)), {ALICE, PHONE}),
    "home relay": (edited(ALICE, home_derp=3), {PHONE, SERVER}),
    "offline": (edited(BOB, online=False, last_seen=1.8e9), {PRINTER, ROUTER, SPARE}),
    "offline, nobody sees it": (edited(CAROL, online=False, last_seen=1.8e9), set()),
    "disco key": (edited(BOB, disco_key=DiscoKey(key(99, 3))), {PRINTER, ROUTER, SPARE}),
    "node key": (edited(PRINTER, node_key=NodeKey(key(99, 2))), {BOB}),
    "name": (edited(PHONE, given_name="other"), {ALICE, SERVER, PHONE}),
    "expiry": (edited(ALICE, expiry=1.9e9), {PHONE, SERVER, ALICE}),
    "capability version": (edited(SERVER, capver=142), {ALICE, PHONE}),
    "host information": (edited(SERVER, hostinfo=b'{"OS":"plan9"}'), {ALICE, PHONE}),
    "tag": (edited(SERVER, tags=("tag:printer",)), {ALICE, PHONE, BOB, SERVER}),
    "owner": (edited(PHONE, user_id=UserId(3)), {ALICE, SERVER, PHONE, CAROL}),
    "user renamed": (
        lambda netmap: netmap.put_user(User(UserId(1), TENANT.id, "user1", display_name="Alice A.")),
        {ALICE, PHONE, SERVER},
    ),
    "user nobody has": (lambda netmap: netmap.put_user(User(UserId(9), TENANT.id, "user9")), set()),
    "deleted": (lambda netmap: netmap.remove(DeviceId(SERVER)), {ALICE, PHONE, SERVER}),
    "registered": (
        lambda netmap: netmap.put(make_device(9, user_id=UserId(2))),
        {BOB, PRINTER, ROUTER, SPARE},
    ),
    "registered, nobody sees it": (lambda netmap: netmap.put(make_device(9, user_id=UserId(4))), set()),
    "route announced": (edited(SERVER, announced_routes=("10.9.0.0/24",)), set()),
    "spare route withdrawn": (edited(SPARE, approved_routes=()), {BOB, SPARE}),
    "route goes to the spare": (
        edited(ROUTER, online=False, last_seen=1.8e9),
        {BOB, ROUTER, SPARE},
    ),
    "policy, one port": (
        with_policy(*(RULES[0], ("user2@", "tag:printer:443"), *RULES[2:])),
        {PRINTER},
    ),
    "policy, one rule less": (with_policy(*RULES[1:]), {ALICE, PHONE, SERVER}),
    "policy, other words": (with_policy(*reversed(RULES)), set()),
    "DNS": (lambda netmap: netmap.set_dns(DnsPlan("hs.internal", search_domains=("x.test",))), EVERYBODY),
    "DERP map": (lambda netmap: netmap.set_derp_map(b'{"Regions":{"7":{}}}'), EVERYBODY),
    "dial plan": (lambda netmap: netmap.set_dial_plan(b'{"Candidates":[]}'), EVERYBODY),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_who_hears_of_it(kind: str) -> None:
    change, expected = CHANGES[kind]
    netmap, elsewhere = place(), place()
    change(netmap)
    flush = netmap.commit()
    heard = {
        number
        for number in range(1, 10)
        if number in EVERYBODY and flush.message_for(DeviceId(number), Variant.PLAIN) is not None
    }
    assert heard == expected
    # Another tenant, with the same names and addresses, has nothing to say.
    assert elsewhere.commit().is_empty
