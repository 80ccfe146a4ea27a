"""A device that applies every delta as a Go client does and checks whatever it receives."""

from __future__ import annotations

from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.device import Message, SimulatedDevice
from app.errors import HsError, RemoteProtocolError
from app.keys import NodeKey
from app.simulation import markers
from app.simulation.mapcheck import MapCheck
from app.simulation.scenario import Spec
from app.simulation.world import (
    FIRST_MAP_DEADLINE_S,
    OPEN_DEADLINE_S,
    Device,
    World,
    check_answer,
    key_of,
    now_s,
)

#: Presence follows from time as well, so two maps may differ in it.
_PRESENCE: Final = ("Online", "LastSeen")
#: What a device said itself; nobody needs to tell it.
_OWN: Final = ("Endpoints", "HomeDERP", "Hostinfo", "DiscoKey")
_SHOWN: Final = 3


class FullDevice(Device):
    """A SimulatedDevice, counted and looked at as the thin ones are, and more closely."""

    __slots__ = ("_check", "_noted", "simulated")

    def __init__(self, world: World, spec: Spec, index: int) -> None:
        super().__init__(world, spec, index)
        self.simulated = SimulatedDevice(
            spec.url,
            hostname=spec.hostname,
            auth_key=spec.auth_key,
            machine_private=X25519PrivateKey.from_private_bytes(key_of(spec, "machine")),
            node_private=X25519PrivateKey.from_private_bytes(key_of(spec, "node")),
            disco=key_of(spec, "disco"),
            ephemeral=spec.ephemeral,
            os=spec.os,
            open_deadline_s=OPEN_DEADLINE_S,
            watcher=self,
        )
        self._use(self.marker)
        self._check = MapCheck(world.ids)
        self._noted = 0

    @property
    def node_key(self) -> NodeKey:
        return self.simulated.node_key

    def on_message(self, message: Message, blob: bytes) -> None:
        """Called after the message was applied to the netmap, or ended the poll."""
        if message.kind == "full" and not self.here:
            self._check = MapCheck(self.world.ids)
            self._noted = 0
        world = self.world
        notes = world.take(self, self._check, world.digest(blob), message.size_bytes, message.arrived_s)
        self._tell(notes)
        if message.kind != "keepalive":
            self.arrived()

    def on_poll_end(self, error: HsError | None) -> None:
        self._tell([])
        broken = isinstance(error, RemoteProtocolError)
        if error is not None and broken and error.message not in self.simulated.netmap.violations:
            self.violated(error.message)
        if self.here:
            self.gone(error, lost=self.wanted)
        elif error is not None and self.wanted and not broken:
            self.failed("coming back" if self.lost_s else "joining", error)

    def _tell(self, notes: list[str]) -> None:
        """What is wrong, once where both have seen it: they use the same words."""
        found = self.simulated.netmap.violations
        for text in dict.fromkeys([*notes, *found[self._noted :]]):
            self.violated(text)
        self._noted = len(found)

    async def enter(self) -> None:
        self.wanted = True
        if self.simulated.server_key is None:
            self.simulated.server_key = await self.world.server_key(self.spec.url)
        check_answer(await self.simulated.register())
        await self._poll()

    async def come_back(self) -> None:
        self.wanted = True
        self.lost_s = now_s()
        await self._poll()

    async def _poll(self) -> None:
        if not self.simulated.is_polling:
            await self.simulated.poll()
        await self.simulated.wait_for(lambda netmap: self.here, FIRST_MAP_DEADLINE_S)

    async def send_endpoints(self, number: int) -> None:
        await self.simulated.update(endpoints=markers.endpoints(number, self.spec.usual))

    async def go_away(self) -> None:
        self.wanted = False
        await self.simulated.close()
        self.gone(None, lost=False)

    async def leave(self) -> None:
        self.wanted = False
        try:
            await self.simulated.logout()
        finally:
            await self.go_away()

    def drop(self) -> None:
        self.dropped = True
        self.simulated.drop()

    # ----------------------------------------------------------------------------- at the end

    def stale(self, senders: dict[str, Device]) -> list[str]:
        """Peers (by their node key's text) whose newest acknowledged endpoints it does not know."""
        wrong = []
        for row in self.simulated.netmap.peers.values():
            sender = senders.get(row.get("Key", ""))
            if sender is None or not sender.here or sender.busy:
                continue
            if markers.marker(sender.reported) not in (row.get("Endpoints") or ()):
                wrong.append(f"the newest endpoints of {sender.spec.hostname} never arrived")
        return wrong

    async def differences(self) -> list[str]:
        """Members in which the map after all deltas differs from a fresh one. Raises Unavailable."""
        before = _timeless(self.simulated.netmap.view())
        await self.go_away()
        self.wanted = True
        await self._poll()
        after = _timeless(self.simulated.netmap.view())
        return differences(before, after)

    def _use(self, number: int) -> None:
        self.simulated.endpoints = tuple(markers.endpoints(number, self.spec.usual))


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Where two views of a map differ, in words."""
    texts = [
        f"{name} differs from a fresh map's"
        for name in before
        if name != "Peers" and before[name] != after[name]
    ]
    old, new = before["Peers"], after["Peers"]
    for what, ids in (("has left", old.keys() - new.keys()), ("is unknown", new.keys() - old.keys())):
        texts += [f"peer {device_id} {what}, says a fresh map" for device_id in sorted(ids)[:_SHOWN]]
    changed = [device_id for device_id in old.keys() & new.keys() if old[device_id] != new[device_id]]
    for device_id in sorted(changed)[:_SHOWN]:
        names = {**old[device_id], **new[device_id]}
        which = [name for name in names if old[device_id].get(name) != new[device_id].get(name)]
        texts.append(f"peer {device_id} differs from a fresh map's in {', '.join(sorted(which))}")
    return texts


def _timeless(view: dict[str, Any]) -> dict[str, Any]:
    return {
        **view,
        "Node": _without(view["Node"] or {}, (*_PRESENCE, *_OWN)),
        "Peers": {device_id: _without(row, _PRESENCE) for device_id, row in view["Peers"].items()},
    }


def _without(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
