"""Use case: `/machine/register`. One database round trip decides; this file words the answer.

A device without an auth key takes node.login's way first.

Anything a device's user should read travels as `Error` with status 200: the Go client prints that,
but only logs HTTP errors (PROTOCOL.md 3.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from app import log
from app.errors import HsError, LeaseLost, Unavailable, WrongCluster
from app.keys import MachineKey, NodeKey, short
from app.model import (
    TAGGED_DEVICES_USER_ID,
    Device,
    DeviceId,
    Registration,
    RegistrationResult,
    Tenant,
    TenantId,
    User,
    UserId,
)
from app.names import label_of
from app.policy.permits import permits
from app.tokens import parse_auth_token
from app.wire import tailcfg
from app.wire.hostinfo import peer_hostinfo
from node.elsewhere import Elsewhere
from node.hub import Hub
from node.login import LoginFlow
from node.rates import CODE, TenantRates, sentence
from node.suspension import why_cut_off

_log = log.get("register")

#: tailcfg.CurrentCapabilityVersion of Tailscale 1.80, the oldest client served.
MIN_CAPVER = 113
TOO_OLD = "this Tailscale client is too old (capability version {}): please update it to 1.80 or newer"
DENIED = "an administrator denied this login"
FROZEN = "the control server cannot reach its database at the moment; the client retries by itself"


class Registry(Protocol):
    """What registration needs of the database (app.db.Scoped)."""

    async def register(
        self, wish: Registration, *, default_expiry_s: float | None = None
    ) -> RegistrationResult: ...

    async def logout(self, tenant_id: TenantId, device_id: DeviceId, node_key: NodeKey) -> str: ...


@dataclass(frozen=True, slots=True)
class Registrar:
    """Registers, refreshes, rotates and logs out devices."""

    registry: Registry
    hub: Hub
    logins: LoginFlow
    elsewhere: Elsewhere
    clock: Callable[[], float]
    key_lifetime_s: float | None
    count: Callable[[str], None]
    #: Hears of every device that was let in, anew or with another key.
    on_registered: Callable[[TenantId], None]
    may_write: Callable[[], bool]
    rates: TenantRates

    async def register(
        self, machine_key: MachineKey, request: tailcfg.RegisterRequest, address: str
    ) -> bytes:
        """The RegisterResponse for one request of a tunnel with this machine key.

        One that follows a login up takes as long as a person needs to decide (PROTOCOL.md 3.4). Raises
        WrongCluster, with `cluster` among its facts, when that one must answer.
        """
        try:
            return await self._decide(machine_key, request, address)
        except (Unavailable, LeaseLost) as error:
            _log.warning("register_frozen", machine=short(machine_key), reason=error.message)
            self.count("unavailable")
            return refusal(FROZEN)
        except HsError as error:
            if isinstance(error, WrongCluster) and "cluster" in error.facts:
                raise
            self.count(error.code)
            return refusal(error.message)

    async def _decide(self, machine_key: MachineKey, request: tailcfg.RegisterRequest, address: str) -> bytes:
        if request.version < MIN_CAPVER:
            self.count("too_old")
            return refusal(TOO_OLD.format(request.version))
        self._check_lease()
        known = self.hub.device_by_node_key(request.node_key)
        if known is not None and known.machine_key != machine_key:
            self.count("node_key_taken")
            return refusal(
                "this node key belongs to another machine: log out on this device, then log in again"
            )
        if request.expiry is not None and request.expiry <= self.clock():
            if known is None:
                await self._check_device(machine_key, request)
            return await self._logout(known)
        wish = _registration(machine_key, request)
        if (asking := self._tenant(_tenant_of(wish, known))) and (wait_s := self.rates.wait_s(asking)):
            self.count(CODE)
            return refusal(sentence(asking, wait_s))
        login_tenant: TenantId | None = None
        result = await self._register(self._permitted(wish, _tenant_of(wish, known)))
        if result.status == "needs_login":
            await self._check_device(machine_key, request)
            stands = await self.logins.stand(machine_key, request, address)
            if isinstance(stands, str):
                return _show(stands)
            if stands.state == "denied":
                return refusal(DENIED)
            self._check_lease()
            login_tenant = stands.tenant_id
            wish = self._permitted(replace(wish, login_id=stands.id), stands.tenant_id)
            result = await self._register(wish)
            if result.status == "needs_login":  # the device that used this approval up is gone
                again = await self.logins.ask(machine_key, request, address)
                if isinstance(again, str):
                    return _show(again)
        if result.status == "wrong_cluster":
            tenant_id = _tenant_of(wish, None) or login_tenant
            if tenant_id is not None and (cluster := await self.elsewhere.other_of_tenant(tenant_id)):
                raise _elsewhere(cluster)
        # Before all: an expired registration names its device too.
        if result.status == "expired":
            return tailcfg.register_response(0, "", "", node_key_expired=True, machine_authorized=False)
        if (cut_off := why_cut_off(result.tenant)) is not None:
            self.count(cut_off[0])
            return refusal(cut_off[1])
        if result.device is not None and result.tenant is not None:
            if result.status != "refreshed":
                self.on_registered(result.tenant.id)
            return self._success(result.device, result.tenant, result.user)
        return refusal(result.message)

    def _tenant(self, tenant_id: TenantId | None) -> Tenant | None:
        return None if tenant_id is None else self.hub.tenant(tenant_id)

    def _permitted(self, wish: Registration, tenant_id: TenantId | None) -> Registration:
        """The wish with what the tenant's policy says of the tags and routes in it."""
        if tenant_id is None or not (wish.request_tags or wish.announced_routes):
            return wish
        in_force = self.hub.policies.in_force(tenant_id)
        if in_force is None:
            return wish
        may = permits(*in_force, wish.request_tags, wish.announced_routes)
        return replace(wish, permits=may)

    async def _check_device(self, machine_key: MachineKey, request: tailcfg.RegisterRequest) -> None:
        """Raises WrongCluster for a device of another cluster."""
        cluster = await self.elsewhere.other_of_device(request.node_key, machine_key)
        if cluster is not None:
            raise _elsewhere(cluster)

    def _check_lease(self) -> None:
        if not self.may_write():
            raise Unavailable("the lease is frozen")

    async def _register(self, wish: Registration) -> RegistrationResult:
        result = await self.registry.register(wish, default_expiry_s=self.key_lifetime_s)
        self.count(result.status if result.status != "refused" else result.code)
        _log.info(
            "register",
            status=result.status,
            code=result.code,
            machine=short(wish.machine_key),
            device=result.device.id if result.device else None,
            hostname=wish.hostname,
        )
        return result

    def _success(self, device: Device, tenant: Tenant, user: User | None) -> bytes:
        if self.hub.tenant(tenant.id) is None:
            self.hub.put_tenant(tenant, sure=False)
        if user is not None:
            self.hub.put_user(user)
        self.hub.put_device(device, lazily=True)
        if device.ephemeral:
            # Or the clean-up could take it away before its first poll (headscale #3423).
            self.hub.expect_poll(device.id)
        if user is None:
            return tailcfg.register_response(TAGGED_DEVICES_USER_ID, "tagged-devices", "Tagged Devices")
        return tailcfg.register_response(
            UserId(user.id), user.email or user.name, user.display_name or user.name
        )

    async def _logout(self, known: Device | None) -> bytes:
        """A registration with an expiry in the past, whatever else it carries (PROTOCOL.md 3.5)."""
        if known is not None:
            outcome = await self.registry.logout(known.tenant_id, known.id, known.node_key)
            self.count("logout")
            _log.info("logout", device=known.id, outcome=outcome)
            if outcome == "deleted":
                self.hub.remove_device(known.id)
            elif outcome == "expired":
                self.hub.put_device(replace(known, expiry=self.clock()))
        return tailcfg.register_response(0, "", "", node_key_expired=True, machine_authorized=False)


def _elsewhere(cluster_id: str) -> WrongCluster:
    return WrongCluster("this tailnet lives in another cluster: connect again", cluster=cluster_id)


def _registration(machine_key: MachineKey, request: tailcfg.RegisterRequest) -> Registration:
    info = request.hostinfo
    return Registration(
        machine_key=machine_key,
        node_key=request.node_key,
        old_node_key=request.old_node_key,
        auth_key=request.auth_key,
        hostname=info.hostname,
        label=label_of(info.hostname),
        hostinfo=peer_hostinfo(info.raw),
        capver=request.version,
        ephemeral=request.ephemeral,
        request_tags=info.request_tags,
        announced_routes=tuple(sorted(info.routable_ips)),
        expiry_wish=request.expiry,
    )


def _tenant_of(wish: Registration, known: Device | None) -> TenantId | None:
    """Whose policy counts, as far as that can be told before the database has decided."""
    if known is not None:
        return known.tenant_id
    token = parse_auth_token(wish.auth_key) if wish.auth_key else None
    return None if token is None else TenantId(token.tenant_id)


def _show(url: str) -> bytes:
    """A RegisterResponse with the page where somebody decides."""
    return tailcfg.register_response(0, "", "", auth_url=url, machine_authorized=False)


def refusal(sentence: str) -> bytes:
    """A RegisterResponse whose text the client shows to its user."""
    return tailcfg.register_response(0, "", "", error=sentence, machine_authorized=False)
