"""Operator requests, carried out: claimed one at a time, written by the same methods as the shell's.

A request may be carried out again when its first owner died before it wrote the outcome: every
handler leads to the same end then, so what is there already is no conflict. A refusal is an outcome,
its sentence is what the operator sees.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from app import log
from app.db.devices import missing_device
from app.db.scoped import Scoped
from app.db.users import missing_user
from app.errors import BadRequest, Conflict, HsError, LeaseLost, NotFound, Refused
from app.model import DeviceId, OperatorRequest, TenantId, UserId
from app.policy.check import accept
from app.request_kinds import (
    REASON_MIN,
    DeviceDelete,
    DeviceExpire,
    DeviceLook,
    DeviceMoveUser,
    DeviceRename,
    DeviceTag,
    KeyCreate,
    KeyDelete,
    KeyExpire,
    LeaseRelease,
    LoginApprove,
    LoginDeny,
    NetmapRebuild,
    PolicySet,
    RequestArgs,
    RoutesApprove,
    RoutesReject,
    UserCreate,
    UserDelete,
    UserRename,
    UserRole,
    seen_of,
)
from app.request_outcome import Result, outcome_of
from app.scopes import parse_scope
from node.device_look import bounded, device_facts
from node.hub import Hub
from node.rebuild import Rebuilder
from node.refresh import Refresher

_log = log.get("requests")

#: Requests are looked for at least this often, should every notification be lost.
POLL_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Work:
    """One request and what is needed to carry it out."""

    scoped: Scoped
    hub: Hub
    refresher: Refresher
    request: OperatorRequest
    tenant_id: TenantId
    on_rebuild: Callable[[str, float], None]
    #: Whether the home tenant's policy is a file.
    file_rules: bool = False

    @property
    def actor(self) -> str:
        return self.request.requested_by

    @property
    def again(self) -> bool:
        """Whether an earlier attempt may have had its effect."""
        return self.request.attempts > 1

    def device(self, device_id: int) -> DeviceId:
        """The id, unless the device is another tenant's. Raises NotFound."""
        known = self.hub.device(DeviceId(device_id))
        if known is not None and known.tenant_id != self.tenant_id:
            raise missing_device(DeviceId(device_id))
        return DeviceId(device_id)

    def user(self, user_id: int) -> UserId:
        """The id, unless the user is another tenant's. Raises NotFound."""
        known = self.hub.user(user_id)
        if known is not None and known.tenant_id != self.tenant_id:
            raise missing_user(UserId(user_id))
        return UserId(user_id)

    async def show_device(self, device_id: DeviceId) -> Result:
        """Put what is stored now into the hub. Raises NotFound."""
        await self.refresher.reload_device(self.tenant_id, device_id)
        if self.hub.device(device_id) is None:
            raise missing_device(device_id)
        return {"device_id": device_id}


async def _expire_device(work: Work, args: DeviceExpire) -> Result:
    device_id = work.device(args.device_id)
    await work.scoped.expire_device(
        work.tenant_id, device_id, args.at, actor=work.actor, seen=seen_of(args.seen)
    )
    return await work.show_device(device_id)


async def _rename_device(work: Work, args: DeviceRename) -> Result:
    device_id = work.device(args.device_id)
    await work.scoped.rename_device(
        work.tenant_id, device_id, args.name, actor=work.actor, seen=seen_of(args.seen)
    )
    return await work.show_device(device_id)


async def _tag_device(work: Work, args: DeviceTag) -> Result:
    device_id = work.device(args.device_id)
    await work.scoped.set_device_tags(
        work.tenant_id, device_id, args.tags, actor=work.actor, seen=seen_of(args.seen)
    )
    return await work.show_device(device_id)


async def _move_device(work: Work, args: DeviceMoveUser) -> Result:
    device_id = work.device(args.device_id)
    await work.scoped.move_device_to_user(
        work.tenant_id, device_id, work.user(args.user_id), actor=work.actor, seen=seen_of(args.seen)
    )
    return await work.show_device(device_id)


async def _delete_device(work: Work, args: DeviceDelete) -> Result:
    device_id = work.device(args.device_id)
    try:
        await work.scoped.delete_device(work.tenant_id, device_id, actor=work.actor, seen=seen_of(args.seen))
    except NotFound:
        if not work.again:
            raise
    work.hub.remove_device(device_id)
    return {"device_id": device_id}


async def _look_at_device(work: Work, args: DeviceLook) -> Result:
    return bounded(await device_facts(work.hub, work.device(args.device_id)))


async def _create_key(work: Work, args: KeyCreate) -> Result:
    if work.again:
        for key in await work.scoped.list_auth_keys(work.tenant_id):
            if key.prefix == args.prefix:
                return {"key_id": key.id}
    try:
        secret_hash = bytes.fromhex(args.hash_hex)
    except ValueError as error:
        raise BadRequest("hash_hex is not hexadecimal", code="bad_auth_key") from error
    key = await work.scoped.insert_auth_key(
        work.tenant_id,
        args.prefix,
        secret_hash,
        None if args.user_id is None else work.user(args.user_id),
        reusable=args.reusable,
        ephemeral=args.ephemeral,
        tags=args.tags,
        expiration=args.expiration,
        actor=work.actor,
    )
    return {"key_id": key.id}


async def _expire_key(work: Work, args: KeyExpire) -> Result:
    key = await work.scoped.revoke_auth_key(
        work.tenant_id, args.key_id, actor=work.actor, seen=seen_of(args.seen)
    )
    return {"key_id": key.id}


async def _delete_key(work: Work, args: KeyDelete) -> Result:
    try:
        await work.scoped.delete_auth_key(
            work.tenant_id, args.key_id, actor=work.actor, seen=seen_of(args.seen)
        )
    except NotFound:
        if not work.again:
            raise
    return {"key_id": args.key_id}


async def _create_user(work: Work, args: UserCreate) -> Result:
    if work.again:
        for made in await work.scoped.list_users(work.tenant_id, args.name):
            if made.created >= work.request.requested_at:
                await work.refresher.reload_user(work.tenant_id, made.id)
                return {"user_id": made.id}
    user = await work.scoped.create_user(
        work.tenant_id,
        args.name,
        display_name=args.display_name,
        email=args.email,
        profile_pic_url=args.profile_pic_url,
        actor=work.actor,
    )
    await work.refresher.reload_user(work.tenant_id, user.id)
    return {"user_id": user.id}


async def _rename_user(work: Work, args: UserRename) -> Result:
    user_id = work.user(args.user_id)
    await work.scoped.rename_user(
        work.tenant_id, user_id, args.name, actor=work.actor, seen=seen_of(args.seen)
    )
    await work.refresher.reload_user(work.tenant_id, user_id)
    return {"user_id": user_id}


async def _user_role(work: Work, args: UserRole) -> Result:
    user_id = work.user(args.user_id)
    await work.scoped.set_user_role(
        work.tenant_id, user_id, args.role, actor=work.actor, seen=seen_of(args.seen)
    )
    await work.refresher.reload_user(work.tenant_id, user_id)
    return {"user_id": user_id}


async def _delete_user(work: Work, args: UserDelete) -> Result:
    user_id = work.user(args.user_id)
    try:
        await work.scoped.delete_user(work.tenant_id, user_id, actor=work.actor, seen=seen_of(args.seen))
    except NotFound:
        if not work.again:
            raise
    await work.refresher.reload_user(work.tenant_id, user_id)
    return {"user_id": user_id}


async def _rebuild_netmaps(work: Work, args: NetmapRebuild) -> Result:
    async def report(progress: Result) -> None:
        await work.scoped.report_progress(work.request.id, progress)

    scope = parse_scope(args.scope)
    result = await Rebuilder(work.hub, work.refresher, report).run(work.tenant_id, scope)
    work.on_rebuild(scope.kind, result["ms"] / 1000)
    return result


async def _approve_routes(work: Work, args: RoutesApprove) -> Result:
    device_id = work.device(args.device_id)
    await work.scoped.approve_routes(
        work.tenant_id, device_id, args.routes, actor=work.actor, seen=seen_of(args.seen)
    )
    return await work.show_device(device_id)


async def _reject_routes(work: Work, args: RoutesReject) -> Result:
    device_id = work.device(args.device_id)
    await work.scoped.unapprove_routes(
        work.tenant_id, device_id, args.routes, actor=work.actor, seen=seen_of(args.seen)
    )
    return await work.show_device(device_id)


async def _approve_login(work: Work, args: LoginApprove) -> Result:
    user_id = work.user(args.user_id)
    if not (work.again and await _decided(work, args.login_id, "approved")):
        await work.scoped.approve_login(args.login_id, work.tenant_id, user_id, actor=work.actor)
    return {"login_id": args.login_id}


async def _deny_login(work: Work, args: LoginDeny) -> Result:
    if not (work.again and await _decided(work, args.login_id, "denied")):
        await work.scoped.deny_login(args.login_id, actor=work.actor)
    return {"login_id": args.login_id}


async def _decided(work: Work, login_id: str, state: str) -> bool:
    return any(login.state == state for login in await work.scoped.logins([login_id]))


async def _set_policy(work: Work, args: PolicySet) -> Result:
    tenant = work.hub.tenant(work.tenant_id)
    if work.file_rules and tenant is not None and tenant.is_home:
        raise Refused(
            "the policy of this tenant is a file (policy.mode): change it there", code="policy_file_mode"
        )
    stored = await work.scoped.load_policy(work.tenant_id)
    if not (work.again and stored is not None and stored.text == args.text):
        if args.override and len(args.reason.strip()) < REASON_MIN:
            raise Refused(
                f"whoever passes over failing tests gives a reason ({REASON_MIN} characters)",
                code="reason_wanted",
            )
        users = await work.scoped.list_users(work.tenant_id)
        devices = await work.scoped.list_devices(work.tenant_id)
        accept(args.text, users, devices, tests=not args.override)
        stored = await work.scoped.set_policy(
            work.tenant_id,
            args.text,
            author=work.actor,
            note=args.note,
            expected_version=args.expected_version,
        )
    await work.refresher.reload_policy(work.tenant_id)
    return {"version": stored.version}


async def _release_lease(work: Work, args: LeaseRelease) -> Result:
    """Only decided here: the owner lets go when the outcome is written."""
    epoch = work.request.claimed_epoch
    if epoch != args.epoch:
        if work.again:
            return {"epoch": epoch}
        sentence = f"the cluster has changed hands meanwhile: epoch {epoch} now"
        raise Conflict(sentence, code="version", changed={"epoch": [args.epoch, epoch]})
    if len(args.reason.strip()) < REASON_MIN:
        raise Refused(
            f"the owner is alive: whoever ends it gives a reason ({REASON_MIN} characters)",
            code="reason_wanted",
        )
    return {"epoch": epoch, "standbys": await work.scoped.count_standbys()}


#: Kind of request -> what carries it out.
HANDLERS: dict[str, Callable[[Work, Any], Awaitable[Result]]] = {
    "device_expire": _expire_device,
    "device_rename": _rename_device,
    "device_delete": _delete_device,
    "device_tag": _tag_device,
    "device_move_user": _move_device,
    "device_look": _look_at_device,
    "key_create": _create_key,
    "key_expire": _expire_key,
    "key_delete": _delete_key,
    "user_create": _create_user,
    "user_rename": _rename_user,
    "user_role": _user_role,
    "user_delete": _delete_user,
    "netmap_rebuild": _rebuild_netmaps,
    "routes_approve": _approve_routes,
    "routes_reject": _reject_routes,
    "login_approve": _approve_login,
    "login_deny": _deny_login,
    "policy_set": _set_policy,
    "lease_release": _release_lease,
}


class RequestRunner:
    """Carries out this cluster's requests while its process owns it. The only claimer of its lease."""

    def __init__(
        self,
        scoped: Scoped,
        hub: Hub,
        refresher: Refresher,
        *,
        may_write: Callable[[], bool],
        count: Callable[[str, str], None],
        on_rebuild: Callable[[str, float], None],
        hand_over: Callable[[], None],
        file_rules: bool = False,
    ) -> None:
        """`may_write`: whether the lease is held and not frozen. `count` hears kind and outcome,
        `on_rebuild` the kind of scope and seconds. `file_rules`: the home tenant's policy is a file.
        `hand_over`: lets go of the cluster."""
        self._hand_over = hand_over
        self._scoped = scoped
        self._hub = hub
        self._refresher = refresher
        self._may_write = may_write
        self._count = count
        self._on_rebuild = on_rebuild
        self._file_rules = file_rules
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Somebody may have asked something."""
        self._woken.set()

    async def run(self) -> None:
        """For ever; a lost lease ends it."""
        while True:
            self._woken.clear()
            try:
                while self._may_write() and await self.run_next():
                    pass
            except LeaseLost:
                raise
            except HsError as error:
                _log.warning("requests_delayed", reason=error.message)
            try:
                async with asyncio.timeout(POLL_EVERY_S):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def run_next(self) -> bool:
        """Carry out one request; False when none waits. Raises LeaseLost, Unavailable: it will be resumed."""
        request = await self._scoped.claim_request(resume=True)
        if request is None:
            return False
        result, error = await outcome_of(request, partial(self._carry_out, request))
        await self._scoped.finish_request(request.id, result=result, error=error)
        outcome = "done" if error is None else "failed"
        self._count(request.kind if request.kind in HANDLERS else "unknown", outcome)
        _log.info(
            f"request_{outcome}", request=request.id, kind=request.kind, by=request.requested_by, reason=error
        )
        if request.kind == "lease_release" and result is not None and "standbys" in result:
            self._hand_over()
        return True

    async def _carry_out(self, request: OperatorRequest, args: RequestArgs) -> Result:
        if request.tenant_id is None:
            raise BadRequest(f"a {request.kind} request names a tenant")
        work = Work(
            *(self._scoped, self._hub, self._refresher, request, request.tenant_id),
            self._on_rebuild,
            self._file_rules,
        )
        return await HANDLERS[request.kind](work, args)
