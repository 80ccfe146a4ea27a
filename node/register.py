"""Use case: `/machine/register`. One database round trip decides; this file words the answer.

Anything a device's user should read travels as `Error` with status 200: the Go client prints that,
but only logs HTTP errors (PROTOCOL.md 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app import log
from app.errors import HsError, LeaseLost, Unavailable
from app.keys import MachineKey, short
from app.model import (
    TAGGED_DEVICES_USER_ID,
    Device,
    DeviceId,
    Registration,
    RegistrationResult,
    Tenant,
    User,
    UserId,
)
from app.wire import tailcfg
from app.wire.hostinfo import peer_hostinfo
from node.hub import Hub

_log = log.get("register")

#: tailcfg.CurrentCapabilityVersion of Tailscale 1.80, the oldest client served.
MIN_CAPVER = 113
TOO_OLD = "this Tailscale client is too old (capability version {}): please update it to 1.80 or newer"
NO_KEY = (
    "this control server needs an auth key for a new device: ask your administrator for one "
    "and run 'tailscale up --login-server=... --auth-key=...'"
)
FROZEN = "the control server cannot reach its database at the moment; the client retries by itself"


class Registry(Protocol):
    """What registration needs of the database (app.db.Scoped)."""

    async def register(
        self, registration: Registration, *, key_lifetime_s: float | None
    ) -> RegistrationResult: ...

    async def expire_device(self, device_id: DeviceId, at: float | None) -> Device: ...

    async def delete_device(self, device_id: DeviceId) -> None: ...


@dataclass(frozen=True, slots=True)
class Registrar:
    """Registers, refreshes, rotates and logs out devices."""

    registry: Registry
    hub: Hub
    clock: Callable[[], float]
    key_lifetime_s: float | None
    count: Callable[[str], None]

    async def register(self, machine_key: MachineKey, request: tailcfg.RegisterRequest) -> bytes:
        """The RegisterResponse for one request of a tunnel with this machine key."""
        try:
            return await self._decide(machine_key, request)
        except (Unavailable, LeaseLost) as error:
            _log.warning("register_frozen", machine=short(machine_key), reason=error.message)
            self.count("unavailable")
            return refusal(FROZEN)
        except HsError as error:
            self.count(error.code)
            return refusal(error.message)

    async def _decide(self, machine_key: MachineKey, request: tailcfg.RegisterRequest) -> bytes:
        if request.version < MIN_CAPVER:
            self.count("too_old")
            return refusal(TOO_OLD.format(request.version))
        known = self.hub.device_by_node_key(request.node_key)
        if known is not None and known.machine_key != machine_key:
            self.count("node_key_taken")
            return refusal(
                "this node key belongs to another machine: log out on this device, then log in again"
            )
        if request.expiry is not None and request.expiry <= self.clock():
            return await self._logout(known)
        result = await self.registry.register(
            self._registration(machine_key, request), key_lifetime_s=self.key_lifetime_s
        )
        self.count(result.status if result.status != "refused" else result.code)
        _log.info(
            "register",
            status=result.status,
            code=result.code,
            machine=short(machine_key),
            device=result.device.id if result.device else None,
            hostname=request.hostinfo.hostname,
        )
        if result.device is not None and result.tenant is not None:
            device = await self._shorten_expiry(result.device, request.expiry)
            return self._success(device, result.tenant, result.user)
        if result.status == "expired":
            return tailcfg.register_response(0, "", "", node_key_expired=True, machine_authorized=False)
        if result.status == "needs_login":
            return refusal(NO_KEY)
        return refusal(result.message)

    def _registration(self, machine_key: MachineKey, request: tailcfg.RegisterRequest) -> Registration:
        info = request.hostinfo
        return Registration(
            machine_key=machine_key,
            node_key=request.node_key,
            old_node_key=request.old_node_key,
            auth_key=request.auth_key,
            hostname=info.hostname,
            label=info.hostname,
            hostinfo=peer_hostinfo(info.raw),
            capver=request.version,
            ephemeral=request.ephemeral,
            request_tags=info.request_tags,
            expiry_wish=request.expiry,
        )

    def _success(self, device: Device, tenant: Tenant, user: User | None) -> bytes:
        if self.hub.tenant(tenant.id) is None:
            self.hub.put_tenant(tenant)
        if user is not None:
            self.hub.put_user(user)
        self.hub.put_device(device, lazily=True)
        if user is None:
            return tailcfg.register_response(TAGGED_DEVICES_USER_ID, "tagged-devices", "Tagged Devices")
        return tailcfg.register_response(
            UserId(user.id), user.email or user.name, user.display_name or user.name
        )

    async def _shorten_expiry(self, device: Device, wish: float | None) -> Device:
        """A device may ask for a sooner expiry than it has, never for a later one."""
        if wish is None or (device.expiry is not None and device.expiry <= wish):
            return device
        return await self.registry.expire_device(device.id, wish)

    async def _logout(self, known: Device | None) -> bytes:
        """A registration with an expiry in the past, whatever else it carries (PROTOCOL.md 3.5)."""
        if known is not None:
            self.count("logout")
            _log.info("logout", device=known.id, ephemeral=known.ephemeral)
            if known.ephemeral:
                await self.registry.delete_device(known.id)
                self.hub.remove_device(known.id)
            else:
                self.hub.put_device(await self.registry.expire_device(known.id, self.clock()))
        return tailcfg.register_response(0, "", "", node_key_expired=True, machine_authorized=False)


def refusal(sentence: str) -> bytes:
    """A RegisterResponse whose text the client shows to its user."""
    return tailcfg.register_response(0, "", "", error=sentence, machine_authorized=False)
