"""Blast radius: what the requests of a dialog would touch, and the figures counted of it in words. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from app.blast import Radius, Touched
from app.errors import BadRequest
from app.scopes import parse_scope
from console.cells import plural
from console.store import Ask

#: Routes and clusters a line names; the rest is a number.
NAMED = 4
COUNTING: Final = "counting what it touches..."

#: Role of a line, and the line.
Line = tuple[str, str]

#: Kind of request -> things it touches, and the argument that names them.
TOUCHES: Final[Mapping[str, tuple[str, str]]] = {
    **{f"device_{verb}": ("devices", "device_id") for verb in ("expire", "rename", "delete", "tag")},
    "device_move_user": ("devices", "device_id"),
    **{f"user_{verb}": ("users", "user_id") for verb in ("rename", "role", "delete")},
    **{f"key_{verb}": ("keys", "key_id") for verb in ("expire", "delete")},
    **{f"routes_{verb}": ("routes", "device_id") for verb in ("approve", "reject")},
    **{f"tenant_{verb}": ("tenants", "tenant_id") for verb in ("move", "suspend", "resume")},
    "cluster_drain": ("clusters", "cluster"),
    "lease_release": ("clusters", ""),
    "netmap_rebuild": ("", "scope"),
    "rebalance_verb": ("", "plan"),
}
#: Nothing is counted for these, and why.
UNCOUNTED: Final[Mapping[str, str]] = {
    "user_create": "nobody has it yet",
    "key_create": "nobody has it yet",
    "login_approve": "one device that is not here yet",
    "login_deny": "devices that are not here",
    "policy_set": "its impact is worked out by pairs of devices before it is asked (console.judging)",
    "tenant_pin": "no device is touched",
    "tenant_unpin": "no device is touched",
    "quota_override": "no device is touched: the limit counts for those that join",
    "cluster_undrain": "nobody moves",
    "job_run": "a job says itself what it did",
    "rebalance_propose": "nobody moves before a plan is approved",
    "plan_step": "nobody moves before a plan is approved",
    "alarm_acknowledge": "no device is touched",
}
#: Verbs of a plan -> state of the steps that would be carried out.
_STEPS: Final = {"approve": "waiting", "resume": "waiting", "rollback": "done"}


def touched_by(asks: Sequence[Ask]) -> Touched | None:
    """What requests of one kind touch; None where nothing is counted."""
    if not asks or asks[0].kind not in TOUCHES:
        return None
    what, name = TOUCHES[asks[0].kind]
    first = asks[0].args
    match asks[0].kind:
        case "lease_release":
            return Touched(what, names=(asks[0].cluster_id,))
        case "cluster_drain":
            return Touched(what, names=(first[name],))
        case "rebalance_verb":
            steps = _STEPS.get(first["verb"])
            return None if steps is None else Touched(steps, ids=(first[name],))
        case "netmap_rebuild":
            return _of_scopes(asks)
    if what == "tenants":
        return Touched(what, tuple(ask.args[name] for ask in asks))
    rows = [
        (int(ask.tenant_id or 0), ask.args[name], route)
        for ask in asks
        for route in (ask.args["routes"] if what == "routes" else [""])
    ]
    return Touched(
        what,
        tuple(tenant_id for tenant_id, _, _ in rows),
        tuple(number for _, number, _ in rows),
        tuple(route for _, _, route in rows if route),
    )


def _of_scopes(asks: Sequence[Ask]) -> Touched | None:
    """Rebuilds of one dialog have scopes of one kind."""
    try:
        scopes = [parse_scope(ask.args["scope"]) for ask in asks]
    except BadRequest:
        return None
    tenants = tuple(int(ask.tenant_id or 0) for ask in asks)
    match scopes[0].kind:
        case "cluster":
            return Touched("clusters", names=tuple(dict.fromkeys(ask.cluster_id for ask in asks)))
        case "tag":
            return Touched("tag", tenants, names=(f"tag:{scopes[0].value}",))
        case "tenant":
            return Touched("tenants", tenants)
        case kind:
            return Touched(f"{kind}s", tenants, tuple(scope.id for scope in scopes))


def radius_lines(asks: Sequence[Ask], radius: Radius) -> list[Line]:
    """The figures as a dialog shows them."""
    kind, args = asks[0].kind, asks[0].args
    if not radius.things:
        return [("attention", "Nothing of it is there now.")]
    if kind == "device_expire" and args["at"] is None:
        return [("", f"{_online(radius)}; nobody loses access.")]
    return _LINES[kind](radius)


def _online(radius: Radius) -> str:
    return f"{plural(radius.devices, 'device')}, {radius.online:,} online now"


def _named(names: Sequence[str]) -> str:
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _cut_off(radius: Radius) -> list[Line]:
    lines = [("", f"{_online(radius)}; up to {plural(radius.others, 'other')} may lose contact.")]
    if not radius.carried:
        return [*lines, ("", "It carries no route.")]
    if not radius.lost:
        return [*lines, ("", f"{plural(radius.carried, 'route')}: others online carry them too.")]
    lost = f"Of {plural(radius.carried, 'route')} {len(radius.lost):,} lose the only router online: "
    return [*lines, ("attention", lost + _named(radius.lost))]


def _shown_anew(radius: Radius) -> list[Line]:
    return [("", f"{_online(radius)}; up to {plural(radius.others, 'other')} may see the change.")]


def _owned(radius: Radius) -> list[Line]:
    return [("", f"Owner of {_online(radius)}, and of {plural(radius.keys, 'auth key')}.")]


def _user_deleted(radius: Radius) -> list[Line]:
    keys = ("", f"{plural(radius.keys, 'auth key')} deleted too; devices that joined with them stay.")
    if not radius.devices:
        return [("", "It owns no device."), keys]
    return [("attention", f"It owns {_online(radius)}: refused as long as it does."), keys]


def _keys(radius: Radius) -> list[Line]:
    stay = f"{_online(radius)}, joined with it and keep working."
    open_ = []
    if radius.unused:
        open_.append(f"{plural(radius.unused, 'unused one-off key')}")
    if radius.reusable:
        open_.append(f"{plural(radius.reusable, 'reusable key')} in force")
    return [("", stay), ("", f"It ends {' and '.join(open_) or 'no key that lets anybody in now'}.")]


def _routes(radius: Radius, loses: bool) -> list[Line]:
    word = "lose" if loses else "get"
    first = f"At most {plural(radius.devices, 'device')}, {radius.online:,} online now, {word} a way by it."
    if not radius.lost:
        return [("", first), ("", "Another router online carries each of these prefixes.")]
    if loses:
        return [("", first), ("attention", f"No other router online carries {_named(radius.lost)}")]
    return [("", first), ("", f"It would be the only router online for {_named(radius.lost)}")]


def _drained(radius: Radius) -> list[Line]:
    moves = f"{plural(radius.leaving, 'tenant')} with {plural(radius.leaving_devices, 'device')} move"
    lines: list[Line] = [("", f"{moves}; the {radius.leaving_online:,} online now reconnect.")]
    if radius.pinned:
        lines.append(
            ("attention", f"{plural(radius.pinned, 'tenant')} pinned here: unpin first, or they stay.")
        )
    if radius.targets:
        return [*lines, ("", f"{plural(len(radius.targets), 'cluster')} to go to: {_named(radius.targets)}")]
    return [*lines, ("attention", "No other cluster takes tenants now.")]


def _rebuilt(radius: Radius) -> list[Line]:
    again = f"{plural(radius.devices, 'device')} read again"
    return [("", f"{again}; the {radius.online:,} online now get their whole map anew.")]


_LINES: Final[Mapping[str, Callable[[Radius], list[Line]]]] = {
    "device_expire": _cut_off,
    "device_delete": _cut_off,
    "device_rename": _shown_anew,
    "device_tag": _shown_anew,
    "device_move_user": _shown_anew,
    "user_rename": _owned,
    "user_role": _owned,
    "user_delete": _user_deleted,
    "key_expire": _keys,
    "key_delete": _keys,
    "routes_approve": lambda radius: _routes(radius, False),
    "routes_reject": lambda radius: _routes(radius, True),
    "tenant_move": lambda radius: [("", f"{_online(radius)}: those online reconnect within seconds.")],
    "tenant_suspend": lambda radius: [("", f"{_online(radius)}: all are cut off.")],
    "tenant_resume": lambda radius: [("", f"{plural(radius.devices, 'device')} may connect again.")],
    "cluster_drain": _drained,
    "lease_release": lambda radius: [("", f"{_online(radius)}: those online reconnect to the new owner.")],
    "netmap_rebuild": _rebuilt,
    "rebalance_verb": lambda radius: [
        ("", f"{plural(radius.things, 'tenant')}: {_online(radius)}, these reconnect."),
    ],
}
