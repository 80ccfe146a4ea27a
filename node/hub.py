"""Everything of one cluster that is in memory: tenants, devices, who is connected.

The database is the truth for what is durable; the hub is the truth for presence and endpoints while
this instance owns the cluster. One event loop, no locks: every method runs to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace

from app import log
from app.errors import NotFound
from app.model import Device, DeviceId, HotState, Tenant, TenantId, User
from app.netmap.dns import DnsPlan
from app.netmap.tenant import TenantNetmap, farewell_map
from app.netmap.variant import Compress, Variant, encode
from app.scopes import Scope
from node.departures import Departures
from node.expiries import Expiries
from node.fanout import LAZY_S, Delivery, RoundStats, TenantFanout
from node.index import DeviceIndex
from node.session import MapSession, SessionState
from node.suspension import Suspensions, why_cut_off
from node.tenant_policies import TenantPolicies
from node.turns import Turns

_log = log.get("hub")

#: Keys that expire at a time.
EXPIRE_SLICE = 500
#: Clients of a tenant that has left, let go at a time, and the pause between.
LEAVE_WAVE = 200
LEAVE_PAUSE_S = 0.05


class Hub:
    """The live picture of a cluster."""

    def __init__(
        self,
        *,
        compress: Compress,
        dns: DnsPlan,
        derp_map: bytes,
        clock: Callable[[], float],
        control_time: Callable[[], str],
        offline_grace_s: float,
        on_hot: Callable[[Device], None],
        on_round: Callable[[TenantId, RoundStats], None],
        follows: bool = False,
    ) -> None:
        """`clock` gives epoch seconds. `on_hot` hears of presence and endpoints to be stored.

        `follows`: another instance owns the cluster; who is connected is not known here until `take_over`.
        """
        self._compress = compress
        self._dns = dns
        self._derp_map = derp_map
        self._dial_plan = b""
        self._clock = clock
        self._control_time = control_time
        self._on_hot = on_hot
        self._on_round = on_round
        self._turns = Turns()
        self._tenants: dict[TenantId, TenantFanout] = {}
        self._index = DeviceIndex()
        self._users: dict[int, User] = {}
        self.policies = TenantPolicies(self._tenants)
        self._ephemeral: set[DeviceId] = set()
        self._expiries = Expiries()
        self._departures = Departures(offline_grace_s, self._depart)
        self._notes: list[set[DeviceId]] = []
        self._suspensions = Suspensions(compress)
        self._draining = False
        self._leaving: set[asyncio.Task[None]] = set()
        self._follows = follows

    # -- looking up -----------------------------------------------------------------------------

    def device(self, device_id: DeviceId) -> Device | None:
        tenant_id = self._index.tenant_of(device_id)
        return None if tenant_id is None else self._tenants[tenant_id].netmap.device(device_id)

    def device_by_node_key(self, node_key: bytes) -> Device | None:
        device_id = self._index.by_node_key(node_key)
        return None if device_id is None else self.device(device_id)

    def knows_machine(self, machine_key: bytes) -> bool:
        """Whether a machine has a device here."""
        return self._index.knows_machine(machine_key)

    async def arrival(self, node_key: bytes) -> None:
        """Returns when a device with this key is here; the caller gives the deadline."""
        await self._index.arrival(node_key)

    def why_cut_off(self, device: Device) -> tuple[str, str] | None:
        """(code, sentence) of a device whose tenant is suspended or deleted."""
        return why_cut_off(self.tenant(device.tenant_id))

    def tenant(self, tenant_id: TenantId) -> Tenant | None:
        fanout = self._tenants.get(tenant_id)
        return None if fanout is None else fanout.netmap.tenant

    def user(self, user_id: int | None) -> User | None:
        return None if user_id is None else self._users.get(user_id)

    def fqdn(self, device: Device) -> str:
        return self._tenants[device.tenant_id].netmap.fqdn(device)

    def session(self, device_id: DeviceId) -> MapSession | None:
        tenant_id = self._index.tenant_of(device_id)
        return None if tenant_id is None else self._tenants[tenant_id].sessions.get(device_id)

    def tenants(self) -> list[Tenant]:
        return [fanout.netmap.tenant for fanout in self._tenants.values()]

    def device_ids(self, tenants: Set[TenantId] | None = None) -> list[DeviceId]:
        """Of all tenants, or of these."""
        if tenants is None:
            return list(self._index)
        known = (self._tenants.get(tenant_id) for tenant_id in sorted(tenants))
        return [d.id for fanout in known if fanout is not None for d in fanout.netmap.devices()]

    def users(self) -> list[User]:
        return list(self._users.values())

    def sessions(self) -> list[MapSession]:
        return [s for fanout in self._tenants.values() for s in fanout.sessions.values()]

    def counts(self) -> tuple[int, int, int]:
        """(tenants, devices, open sessions)."""
        return len(self._tenants), len(self._index), sum(len(f.sessions) for f in self._tenants.values())

    def usage(self) -> list[tuple[TenantId, int, int]]:
        """(tenant, registered devices, connected ones)."""
        return [(i, len(fanout.netmap), len(fanout.sessions)) for i, fanout in self._tenants.items()]

    def is_expired(self, device: Device) -> bool:
        return device.expiry is not None and device.expiry <= self._clock()

    # -- what the database says -----------------------------------------------------------------

    @contextmanager
    def noting(self) -> Iterator[set[DeviceId]]:
        """Collects the devices that are put or removed meanwhile.

        A picture read from the database may be older than what this process wrote while it was read;
        for the devices noted the memory is right.
        """
        note: set[DeviceId] = set()
        self._notes.append(note)
        try:
            yield note
        finally:
            # By identity: two notes may be equal.
            self._notes = [kept for kept in self._notes if kept is not note]

    def load_device(self, device: Device) -> None:
        """A device as it is stored. One that was online when an earlier owner stopped counts as online
        for one grace, so that a restart is no flicker for its peers."""
        first_seen = device.id not in self._index
        self._put_device(device)
        if first_seen and device.online and not self._follows:
            self._departures.expect(device.id)

    def put_states(self, states: Sequence[HotState]) -> None:
        """Presence and endpoints as the former owner left them, before anybody is connected here."""
        for state in states:
            if (device := self.device(state.device_id)) is None:
                continue
            told = replace(
                device,
                endpoints=state.endpoints,
                home_derp=state.home_derp,
                online=state.online,
                last_seen=state.last_seen,
            )
            self._put_if_changed(device, told, store=False)

    def stop_following(self) -> None:
        """From now on this instance owns the cluster and knows who is connected."""
        self._follows = False

    def put_approvals(self, device_id: DeviceId, approved: tuple[str, ...]) -> None:
        """The routes that a device may carry are these."""
        device = self.device(device_id)
        if device is not None:
            self.put_device(replace(device, approved_routes=approved))

    def expect_back(self, device_id: DeviceId) -> None:
        """A device that was online at the former owner is offline after the grace unless it comes here."""
        device = self.device(device_id)
        if device is not None and device.online and self.session(device_id) is None:
            self._departures.expect(device_id)

    def put_tenant(self, tenant: Tenant, *, sure: bool = True) -> None:
        """A tenant is new or has changed. Not `sure`: whether it has a policy is not known yet, and
        nobody reaches anybody until it is."""
        fanout = self._tenants.get(tenant.id)
        if fanout is not None:
            was, fanout.netmap.tenant = fanout.netmap.tenant, tenant
            if why_cut_off(tenant) is not None:
                self._suspensions.begin(fanout)
            elif why_cut_off(was) is not None and not self._follows:
                # Those that go when they are silent have had no chance to speak.
                for device_id in (d for d in self._ephemeral if self._index.tenant_of(d) == tenant.id):
                    self._departures.expect(device_id)
            return
        netmap = TenantNetmap(
            tenant,
            compress=self._compress,
            dns=self._dns,
            derp_map=self._derp_map,
            policy=self.policies.first(tenant.id, sure=sure),
        )
        if self._dial_plan:
            netmap.set_dial_plan(self._dial_plan)
        self._tenants[tenant.id] = TenantFanout(
            netmap,
            turns=self._turns,
            control_time=self._control_time,
            on_round=lambda fanout, stats: self._on_round(fanout.netmap.tenant.id, stats),
        )

    def remove_tenant(self, tenant_id: TenantId) -> None:
        """The tenant is gone or lives in another cluster: its clients are let go in waves, without a word."""
        fanout = self._tenants.pop(tenant_id, None)
        if fanout is None:
            return
        fanout.stop()
        self.policies.forget(tenant_id)
        for device in list(fanout.netmap.devices()):
            self._forget(device.id, device)
        for user in [u for u in self._users.values() if u.tenant_id == tenant_id]:
            del self._users[user.id]
        sessions = list(fanout.sessions.values())
        if sessions:
            leaving = asyncio.get_running_loop().create_task(_let_go(sessions), name="let go")
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)

    def put_user(self, user: User) -> None:
        if self._users.get(user.id) == user:
            return
        self._users[user.id] = user
        fanout = self._tenants.get(user.tenant_id)
        if fanout is not None:
            fanout.netmap.put_user(user)
            fanout.mark()

    def remove_user(self, user: User) -> None:
        self._users.pop(user.id, None)
        fanout = self._tenants.get(user.tenant_id)
        if fanout is not None:
            fanout.netmap.remove_user(user.id)
            fanout.mark()

    def put_device(self, device: Device, *, lazily: bool = False) -> None:
        """The durable part of a device as stored; its hot part is kept from memory if known.

        `lazily`: nobody waits for it, its own poll is about to come.
        """
        for note in self._notes:
            note.add(device.id)
        self._put_device(device, lazily=lazily)

    def _put_device(self, device: Device, *, lazily: bool = False) -> None:
        fanout = self._tenants.get(device.tenant_id)
        if fanout is None:
            return
        known = fanout.netmap.device(device.id)
        if known is not None:
            device = replace(
                device,
                endpoints=known.endpoints,
                home_derp=known.home_derp,
                online=known.online,
                last_seen=known.last_seen,
            )
        self._index.put(device, known)
        if device.ephemeral:
            self._ephemeral.add(device.id)
        self._expiries.expect(device, known)
        fanout.netmap.put(device, expired=self.is_expired(device))
        session = fanout.sessions.get(device.id)
        if session is not None and session.node_key != device.node_key:
            session.end()
        fanout.mark(LAZY_S if lazily else 0.0)

    def remove_device(self, device_id: DeviceId) -> None:
        """The device is deleted: its peers forget it, and it is told that it is out."""
        for note in self._notes:
            note.add(device_id)
        tenant_id = self._index.tenant_of(device_id)
        if tenant_id is None:
            return
        fanout = self._tenants[tenant_id]
        device = fanout.netmap.device(device_id)
        session = fanout.sessions.get(device_id)
        if session is not None and device is not None and session.state is not SessionState.LAGGING:
            session.send_last(self.farewell(device, session.variant))
        elif session is not None:
            session.end()
        self._forget(device_id, device)
        fanout.netmap.remove(device_id)
        fanout.mark()

    def _forget(self, device_id: DeviceId, device: Device | None) -> None:
        self._index.remove(device_id, device)
        self._ephemeral.discard(device_id)
        self._departures.is_back(device_id)

    def farewell(self, device: Device, variant: Variant) -> bytes:
        text = farewell_map(
            device.id,
            node_key=device.node_key,
            machine_key=device.machine_key,
            expired_at=self._clock() - 1,
            addresses=(device.ipv4, device.ipv6),
        )
        return encode(text, variant, self._compress)

    async def full_map(self, device_id: DeviceId, variant: Variant) -> bytes:
        """A full map of what is committed, for who asks once. Raises NotFound, Unavailable."""
        tenant_id = self._index.tenant_of(device_id)
        if tenant_id is None:
            raise NotFound(f"no device {device_id}")
        return await self._tenants[tenant_id].full_map(device_id, variant)

    def devices_in(self, tenant_id: TenantId, scope: Scope) -> list[Device]:
        """The devices of a tenant that a scope holds."""
        fanout = self._tenants.get(tenant_id)
        return [] if fanout is None else [d for d in fanout.netmap.devices() if scope.holds(d)]

    def rebuild(self, tenant_id: TenantId, devices: set[DeviceId]) -> Delivery:
        """Netmaps made from scratch and sent whole. Raises NotFound."""
        fanout = self._tenants.get(tenant_id)
        if fanout is None:
            raise NotFound(f"tenant {tenant_id} is not in this cluster")
        return fanout.rebuild(devices)

    def set_derp_map(self, derp_map: bytes) -> None:
        self._derp_map = derp_map
        for fanout in self._tenants.values():
            fanout.netmap.set_derp_map(derp_map)
            fanout.mark()

    def set_dial_plan(self, plan: bytes) -> None:
        self._dial_plan = plan
        for fanout in self._tenants.values():
            fanout.netmap.set_dial_plan(plan)
            fanout.mark()

    # -- what devices say -----------------------------------------------------------------------

    def put_hot(self, device_id: DeviceId, *, endpoints: tuple[str, ...] | None, home_derp: int) -> None:
        """New endpoints (None: not said) and home relay (0: not known yet, keep)."""
        device = self.device(device_id)
        if device is None:
            return
        changed = replace(
            device,
            endpoints=device.endpoints if endpoints is None else endpoints,
            home_derp=home_derp or device.home_derp,
        )
        # Until peers know a newcomer's relay their first handshakes are lost, and each costs 5 s.
        self._put_if_changed(device, changed, urgent=not device.home_derp)

    def _put_if_changed(self, old: Device, new: Device, *, urgent: bool = False, store: bool = True) -> None:
        if old == new:
            return
        fanout = self._tenants[new.tenant_id]
        fanout.netmap.put(new, expired=self.is_expired(new))
        fanout.mark(urgent=urgent)
        if store:
            self._on_hot(new)

    def connect(self, session: MapSession) -> None:
        """A device's poll begins; an older poll of the same device ends without a flicker."""
        device = self.device(session.device_id)
        if device is None or self._draining or self.why_cut_off(device) is not None:
            session.end()
            return
        fanout = self._tenants[device.tenant_id]
        older = fanout.sessions.get(device.id)
        fanout.sessions[device.id] = session
        if older is not None:
            older.end()
        self._departures.is_back(device.id)
        if not device.online:
            self._put_if_changed(device, replace(device, online=True, last_seen=None))
        fanout.join(session)

    def expect_poll(self, device_id: DeviceId) -> None:
        """The device has just registered: a sign of life, its poll is about to come."""
        if self.session(device_id) is None:
            self._departures.expect(device_id)

    # -- SessionKeeper --------------------------------------------------------------------------

    def session_caught_up(self, session: MapSession) -> None:
        tenant_id = self._index.tenant_of(session.device_id)
        if tenant_id is None:
            session.end()
        else:
            self._tenants[tenant_id].join(session)

    def session_closed(self, session: MapSession) -> None:
        tenant_id = self._index.tenant_of(session.device_id)
        if tenant_id is None:
            return
        fanout = self._tenants[tenant_id]
        if fanout.sessions.get(session.device_id) is session:
            del fanout.sessions[session.device_id]
            if not self._draining:
                self._departures.expect(session.device_id)

    # -- time -----------------------------------------------------------------------------------

    def _depart(self, device_id: DeviceId) -> None:
        device = self.device(device_id)
        if device is not None and self.session(device_id) is None:
            self._put_if_changed(device, replace(device, online=False, last_seen=self._clock()))

    def expire_due(self) -> int:
        """Tell everybody about keys whose time has come; returns how many, EXPIRE_SLICE at most."""
        now = self._clock()
        expired = 0
        for at, device_id in self._expiries.due(now):
            device = self.device(device_id)
            if device is None or device.expiry != at:
                continue
            fanout = self._tenants[device.tenant_id]
            fanout.netmap.put(device, expired=True)
            fanout.mark()
            expired += 1
            if expired == EXPIRE_SLICE:
                break
        return expired

    def inactive_ephemeral(self, inactive_s: float) -> list[Device]:
        """Ephemeral devices that have been offline for so long (or never polled since they registered)."""
        now = self._clock()
        return [
            device
            for device_id in self._ephemeral
            if (device := self.device(device_id)) is not None
            and self.why_cut_off(device) is None
            # Not "has no session": while the process hands its clients back, nobody has one.
            and not device.online
            and device_id not in self._departures
            and (device.last_seen or device.created) + inactive_s <= now
        ]

    # -- the end --------------------------------------------------------------------------------

    async def drain(self, *, wave: int, pause_s: float) -> None:
        """Hand all clients back in waves: streams end, clients poll again wherever they are led."""
        self._draining = True
        self._departures.stop()
        for fanout in self._tenants.values():
            fanout.stop()
        await _let_go(self.sessions(), wave, pause_s)


async def _let_go(sessions: list[MapSession], wave: int = LEAVE_WAVE, pause_s: float = LEAVE_PAUSE_S) -> None:
    """End polls and their connections in waves: clients come back at once, wherever they are led."""
    for start in range(0, len(sessions), wave):
        for session in sessions[start : start + wave]:
            session.end()
            session.tunnel.close()
        await asyncio.sleep(pause_s)
