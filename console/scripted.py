"""Actions without a screen: `hs-console do ACTION name=value ...`, followed to their outcome."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from app.db.requests import RequestDesk
from app.errors import BadRequest, NotFound
from app.fleet import Term, View
from app.model import OperatorRequest, TenantId
from app.request_kinds import KINDS, REASON_MIN, RebalanceVerb, is_for_acs, parse_request
from app.tokens import RANDOM_BYTES, make_auth_token
from console.actions import ACTIONS, BY_ID, Action
from console.blast import UNCOUNTED, radius_lines, touched_by
from console.cells import plural
from console.store import Ask, Store

#: What can be asked for, in the order of the registry.
ACTION_IDS = tuple(action.id for action in ACTIONS if action.kind)
#: Argument -> what the audit log calls the thing it names.
NOUNS = {
    **{"device_id": "device", "user_id": "user", "key_id": "auth_key", "tenant_id": "tenant"},
    **{"plan": "rebalance", "cluster": "cluster", "login_id": "login", "alarm": "alarm"},
}


def arguments_of(action_id: str, words: Sequence[str]) -> dict[str, Any]:
    """`name=value` words as the action's arguments; a value may be JSON. Raises BadRequest naming them.

    Where a text is wanted, JSON that is none (a policy, a number) is the text.
    """
    kind = BY_ID[action_id].kind
    types = {field.name: field.type for field in msgspec.structs.fields(KINDS[kind])}
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in types:
            raise BadRequest(f"{action_id} takes {', '.join(f'{field}=' for field in types)} not {word!r}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        wants_text = types[name] is str or getattr(types[name], "__origin__", None) is str
        found[name] = text if wants_text and not isinstance(value, str) else value
    if KINDS[kind] is RebalanceVerb:
        found["verb"] = action_id.rpartition(".")[2]
    return found


async def place_of(store: Store, scope: str | None, tenant: str | None) -> tuple[str, TenantId]:
    """Cluster and id of a tenant by id or name; the only one there is when none is named."""
    known = await store.tenants(scope)
    found = [ref for ref in known if tenant is None or tenant in (str(ref.id), ref.name)]
    if len(found) != 1:
        names = ", ".join(ref.name for ref in known[:10])
        which = "which tenant?" if tenant is None else f"there is no tenant {tenant!r}:"
        raise NotFound(f"{which} --tenant takes {names}")
    return found[0].cluster_id, found[0].id


async def asked_for(
    store: Store, action_id: str, args: dict[str, Any], *, scope: str | None, tenant: str | None
) -> Ask:
    """The request, with the secret that only this process knows. Raises HsError; nothing is sent yet."""
    kind, secret = BY_ID[action_id].kind, ""
    cluster_id, tenant_id = "", None
    if not is_for_acs(kind):
        cluster_id, tenant_id = await place_of(store, scope, tenant)
        if kind == "key_create":
            secret, token = make_auth_token(tenant_id, secrets.token_bytes(RANDOM_BYTES))
            args = {**args, "prefix": token.prefix, "hash_hex": token.hash.hex()}
    parse_request(kind, args)
    if len(args.get("reason", "").strip()) < REASON_MIN:
        why = await reason_for(store, BY_ID[action_id], args)
        if why:
            raise BadRequest(f"{why}: --reason of {REASON_MIN} characters is wanted", code="reason_wanted")
    return Ask(cluster_id, tenant_id, kind, args, object_of(kind, args), action_id, secret=secret)


async def reason_for(store: Store, action: Action, args: dict[str, Any]) -> str:
    """What a reason is wanted for, as far as it can be known before it is asked; empty when nothing is."""
    if action.tier > 2:
        return f"{action.id} is of the highest tier"
    if args.get("override"):
        return "tests that fail are passed over"
    if action.id == "plan.approve":
        view = View((Term("id", "eq", number=args["plan"]),), sort="id")
        notes = [len(plan.notes) for plan in (await store.listing("rebalance", view)).rows]
        if any(notes):
            return f"plan {args['plan']} has {plural(notes[0], 'warning')}"
    return ""


async def radius_of(store: Store, ask: Ask) -> list[str]:
    """How far it would reach, in lines, or why nothing is counted. Raises HsError."""
    touched = touched_by([ask])
    if touched is None:
        return [f"Nothing is counted: {UNCOUNTED.get(ask.kind, 'nobody is touched')}."]
    return [line for _, line in radius_lines([ask], await store.radius(touched))]


async def carry_out(desk: RequestDesk, ask: Ask, *, actor: str, wait_s: float) -> OperatorRequest:
    """The request at its end. Raises HsError."""
    request_id = await desk.submit(
        ask.cluster_id, ask.tenant_id, ask.kind, ask.args, actor=actor, what=ask.what
    )
    return [request async for request in desk.follow(request_id, deadline_s=wait_s)][-1]


def object_of(kind: str, args: dict[str, Any]) -> str:
    """What it is done to, as the audit log names it."""
    return next((f"{noun}:{args[name]}" for name, noun in NOUNS.items() if args.get(name) is not None), kind)
