"""What a tunnel may ask: `/machine/register`, `/machine/map` and a few that only need an answer.

Every request names a node key; it counts only if that device's machine key is the tunnel's
(PROTOCOL.md 2.2: anyone may open a tunnel with a throw-away machine key).
"""

from __future__ import annotations

import asyncio
import math
import random
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from app import log
from app.errors import LeaseLost, NotFound, Unavailable, WrongCluster
from app.keys import MachineKey, NodeKey, short
from app.model import Device, DeviceId, Tombstone
from app.netmap.tenant import farewell_map
from app.netmap.variant import Compress, Variant, encode
from app.policy.routes import auto_approved
from app.wire import http2, mapstream, tailcfg
from app.wire.hostinfo import peer_hostinfo
from node.c2n import PATH_PREFIX, ClientQueries
from node.elsewhere import Elsewhere
from node.hotstate import HotState
from node.hub import Hub
from node.rates import TenantRates, sentence
from node.register import MIN_CAPVER, TOO_OLD, Registrar, refusal
from node.session import MapSession
from node.tunnel import JSON, TEXT, Headers, TunnelProtocol

_log = log.get("machine")

SSH_ACTION_PREFIX = "/machine/ssh/action/"
NO_CHECK_MODE = (
    "SSH check mode is not supported by this control server yet: ask the administrator of this tailnet"
    ' for an SSH rule with "action": "accept"'
)

#: For a tenant that has moved to here to be read, before its devices are told to come again.
ARRIVAL_DEADLINE_S = 5.0

_MAP: Headers = [("content-type", "application/json")]
#: (node key, machine key) -> what is left of a deleted device, None when there never was one.
FindTombstone = Callable[[NodeKey, MachineKey], Awaitable[Tombstone | None]]


class FarewellKeeper:
    """Sessions of deleted devices belong to nobody: nothing is to be done when they end."""

    def session_caught_up(self, session: MapSession) -> None:
        session.end()

    def session_closed(self, session: MapSession) -> None:
        return


@dataclass(slots=True)
class MachineApi:
    """Dispatches the requests of all tunnels."""

    hub: Hub
    registrar: Registrar
    hot: HotState
    queries: ClientQueries
    elsewhere: Elsewhere
    find_tombstone: FindTombstone
    compress: Compress
    clock: Callable[[], float]
    rates: TenantRates
    control_time: Callable[[], str]
    count: Callable[[str], None]
    _locks: weakref.WeakValueDictionary[DeviceId, asyncio.Lock] = field(
        default_factory=weakref.WeakValueDictionary
    )

    def dispatch(self, tunnel: TunnelProtocol, request: http2.Request) -> Awaitable[None] | None:
        """Answer at once, or return what will."""
        if request.path == "/machine/map" and request.method == "POST":
            return self._map(tunnel, request)
        if request.path == "/machine/register" and request.method == "POST":
            return self._register(tunnel, request)
        if request.path == "/machine/update-health" and request.method == "POST":
            tunnel.answer(request.stream_id, 204, b"")
        elif request.path == "/machine/whoami":
            tunnel.answer(request.stream_id, 200, f"{short(tunnel.machine_key)}\n".encode(), TEXT)
        elif request.path.startswith(PATH_PREFIX) and request.method == "POST":
            self.queries.answered(tunnel.machine_key, request.path.removeprefix(PATH_PREFIX), request.body)
            tunnel.answer(request.stream_id, 200, b"")
        elif request.path.startswith(SSH_ACTION_PREFIX) and request.method == "GET":
            # Anything but a verdict makes the session wait for half an hour (PROTOCOL.md 2.7).
            self.count("ssh_action")
            tunnel.answer(request.stream_id, 200, tailcfg.ssh_rejection(NO_CHECK_MODE), JSON)
        elif request.path.startswith("/machine/"):
            tunnel.answer(request.stream_id, 501, b"not supported by this control server\n", TEXT)
        else:
            tunnel.answer(request.stream_id, 404, b"not found\n", TEXT)
        return None

    async def _register(self, tunnel: TunnelProtocol, request: http2.Request) -> None:
        parsed = tailcfg.parse_register(request.body)
        try:
            answer = await self.registrar.register(tunnel.machine_key, parsed, tunnel.remote)
        except WrongCluster as error:
            if await self.elsewhere.send(tunnel, error.facts["cluster"]):
                return
            answer = refusal(error.message)
        tunnel.answer(request.stream_id, 200, answer, JSON)

    # -- map ------------------------------------------------------------------------------------

    def _map(self, tunnel: TunnelProtocol, request: http2.Request) -> Awaitable[None] | None:
        parsed = tailcfg.parse_map(request.body)
        if parsed.version < MIN_CAPVER:
            tunnel.answer(request.stream_id, 400, TOO_OLD.format(parsed.version).encode(), TEXT)
            return None
        device = self.hub.device_by_node_key(parsed.node_key)
        if device is None or device.machine_key != tunnel.machine_key:
            return self._unknown(tunnel, request.stream_id, parsed)
        return self._of_device(tunnel, request.stream_id, parsed, device)

    def _of_device(
        self, tunnel: TunnelProtocol, stream_id: int, request: tailcfg.MapRequest, device: Device
    ) -> Awaitable[None] | None:
        if (cut_off := self.hub.why_cut_off(device)) is not None:
            # No map: it could only say less than the device knows. Any answer but 200 is asked again.
            self.count("cut_off")
            tunnel.answer(stream_id, 403, f"{cut_off[1]}\n".encode(), TEXT)
            return None
        tenant = self.hub.tenant(device.tenant_id)
        if tenant is not None and (wait_s := self.rates.wait_s(tenant)):
            self.count("rate_limited")
            headers = [*TEXT, ("retry-after", str(math.ceil(wait_s)))]
            tunnel.answer(stream_id, 429, f"{sentence(tenant, wait_s)}\n".encode(), headers)
            return None
        if request.read_only and not request.stream:
            self.count("fetch")
            return self._answer_full(tunnel, stream_id, request, device)
        durable = self._durable_difference(device, request)
        if durable is not None:
            return self._store_then(tunnel, stream_id, request, device.id)
        return self._go_on(tunnel, stream_id, request, device)

    def _durable_difference(self, device: Device, request: tailcfg.MapRequest) -> Device | None:
        """The device with what this request changes for good; None when that is nothing.

        Of a stream request only the disco key counts: its Hostinfo may be older than that of a
        lite update already seen (PROTOCOL.md 4.3).
        """
        changed = device
        if request.disco_key is not None and request.disco_key != device.disco_key:
            changed = replace(changed, disco_key=request.disco_key)
        if request.version != device.capver:
            changed = replace(changed, capver=request.version)
        info = request.hostinfo
        if info is not None and not request.stream:
            changed = replace(
                changed,
                hostinfo=peer_hostinfo(info.raw),
                hostname=info.hostname or device.hostname,
                announced_routes=tuple(sorted(info.routable_ips)),
            )
        return None if changed == device else changed

    async def _store_then(
        self, tunnel: TunnelProtocol, stream_id: int, request: tailcfg.MapRequest, device_id: DeviceId
    ) -> None:
        """Store what changed for good, one request of a device after the other, then go on."""
        lock = self._locks.get(device_id)
        if lock is None:
            lock = self._locks[device_id] = asyncio.Lock()
        async with lock:
            if tunnel.closed:  # what a client said before it left is older than what it says now
                return
            device = self._known(device_id)
            changed = self._durable_difference(device, request)
            if changed is not None:
                approvals = await self._store(device, changed)
                # Others may have changed the device while that was written.
                current = self._known(device_id)
                changed = self._durable_difference(current, request) or current
                approved = tuple(sorted({*changed.approved_routes, *approvals}))
                changed = replace(changed, approved_routes=approved)
                self.hub.put_device(changed, lazily=request.stream)
        pending = self._go_on(tunnel, stream_id, request, changed or device)
        if pending is not None:
            await pending

    def _known(self, device_id: DeviceId) -> Device:
        device = self.hub.device(device_id)
        if device is None:
            raise NotFound("this device was deleted meanwhile")
        return device

    async def _store(self, old: Device, new: Device) -> tuple[str, ...]:
        """Store what a device says now; the routes of it that need nobody's approval."""
        while True:
            approvals = self._approvals(old, new)
            stored = await self.hot.store(new, approvals)
            # A policy that came in meanwhile did not find these routes in the database.
            if not set(self._approvals(old, new) or ()).difference(approvals or ()):
                return (approvals or ()) if stored is None else stored

    def _approvals(self, old: Device, new: Device) -> tuple[str, ...] | None:
        """Routes announced just now that need nobody's approval; None when it announces what it did."""
        if old.announced_routes == new.announced_routes:
            return None
        in_force = self.hub.policies.in_force(new.tenant_id)
        fresh = set(new.announced_routes).difference(old.announced_routes)
        if in_force is None or not fresh:
            return ()
        return auto_approved(*in_force, new.user_id, new.tags, fresh)

    def _go_on(
        self, tunnel: TunnelProtocol, stream_id: int, request: tailcfg.MapRequest, device: Device
    ) -> Awaitable[None] | None:
        info = request.hostinfo
        home_derp = info.preferred_derp if info is not None and not request.stream else 0
        endpoints = request.endpoints
        if request.stream:
            if endpoints and not device.endpoints:
                self.hub.put_hot(device.id, endpoints=endpoints, home_derp=0)
            self._poll(tunnel, stream_id, request, device)
            return None
        self.hub.put_hot(device.id, endpoints=endpoints or None, home_derp=home_derp)
        self.count("lite")
        if not request.omit_peers:
            return self._answer_full(tunnel, stream_id, request, device)
        tunnel.answer(stream_id, 200, b"", _MAP)
        return None

    def _poll(
        self, tunnel: TunnelProtocol, stream_id: int, request: tailcfg.MapRequest, device: Device
    ) -> None:
        self.count("poll")
        session = MapSession(
            tunnel,
            stream_id,
            device_id=device.id,
            node_key=request.node_key,
            variant=Variant.ZSTD if request.zstd else Variant.PLAIN,
            keeper=self.hub,
            jitter=random.random(),  # noqa: S311 - spreads timers
        )
        if tunnel.open_stream(stream_id, session, _MAP):
            self.hub.connect(session)
        else:
            session.end()

    async def _answer_full(
        self, tunnel: TunnelProtocol, stream_id: int, request: tailcfg.MapRequest, device: Device
    ) -> None:
        variant = Variant.ZSTD if request.zstd else Variant.PLAIN
        body = await self.hub.full_map(device.id, variant)
        tunnel.answer(stream_id, 200, mapstream.frame(body), _MAP)

    # -- devices that are not here --------------------------------------------------------------

    async def _is_elsewhere(
        self, tunnel: TunnelProtocol, stream_id: int, request: tailcfg.MapRequest
    ) -> bool:
        """Whether the device exists: then it was sent to its cluster, or answered once it is in this one."""
        cluster_id = await self.elsewhere.of_device(request.node_key, tunnel.machine_key)
        if cluster_id is None:
            return False
        if cluster_id != self.elsewhere.cluster_id:
            if not await self.elsewhere.send(tunnel, cluster_id):
                tunnel.answer(stream_id, 503, b"this device is between two clusters\n", TEXT)
            return True
        # Its tenant has just moved to here: what was committed is about to be read.
        try:
            async with asyncio.timeout(ARRIVAL_DEADLINE_S):
                await self.hub.arrival(request.node_key)
        except TimeoutError:
            tunnel.answer(stream_id, 503, b"this device is not here yet\n", TEXT)
            return True
        device = self.hub.device_by_node_key(request.node_key)
        if device is None or device.machine_key != tunnel.machine_key:
            return False
        pending = self._of_device(tunnel, stream_id, request, device)
        if pending is not None:
            await pending
        return True

    # -- devices that are no more ---------------------------------------------------------------

    async def _unknown(self, tunnel: TunnelProtocol, stream_id: int, request: tailcfg.MapRequest) -> None:
        """No device of this cluster: one that was deleted is told so, the rest get 404.

        On a 404 a Go client would stay Running with its last map for ever (CLIENTS.md 6c), so a
        positive proof of deletion keeps a stream open with a node that has expired.
        """
        try:
            gone = await self.find_tombstone(request.node_key, tunnel.machine_key)
            if gone is None and await self._is_elsewhere(tunnel, stream_id, request):
                return
        except (Unavailable, LeaseLost):
            tunnel.answer(stream_id, 503, b"database unavailable\n", TEXT)
            return
        if gone is None:
            self.count("unknown")
            tunnel.answer(stream_id, 404, b"node not found\n", TEXT)
            return
        self.count("farewell")
        variant = Variant.ZSTD if request.zstd else Variant.PLAIN
        text = farewell_map(
            gone.device_id,
            node_key=request.node_key,
            machine_key=tunnel.machine_key,
            expired_at=self.clock() - 1,
        )
        body = encode(text, variant, self.compress)
        if not request.stream:
            tunnel.answer(stream_id, 200, b"" if request.omit_peers else mapstream.frame(body), _MAP)
            return
        session = MapSession(
            tunnel,
            stream_id,
            device_id=gone.device_id,
            node_key=request.node_key,
            variant=variant,
            keeper=FarewellKeeper(),
            jitter=random.random(),  # noqa: S311 - spreads timers
        )
        if tunnel.open_stream(stream_id, session, _MAP):
            session.send_map(body)
