"""The filter line and the go-to line: text -> conditions -> terms for the database. Pure.

`os:linux|android seen<1d !tag:retired word "two words" @cluster`. `:` contains (or is, for fields with
few values), `=` is exactly, `*` stands for anything, `<` `>` compare ages and numbers, `!` denies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from app.fleet import Term

Kind = Literal["text", "word", "tag", "age", "number"]
FieldKinds = Mapping[str, Kind]

MAX_LENGTH = 500
MAX_CONDITIONS = 20
MAX_ALTERNATIVES = 50

DEVICE_FIELDS: FieldKinds = {
    "name": "text",
    "user": "text",
    "tag": "tag",
    "os": "word",
    "version": "text",
    "ip": "text",
    "state": "word",
    "cluster": "word",
    "tenant": "word",
    "seen": "age",
    "expires": "age",
    "id": "number",
    "key": "number",
}
USER_FIELDS: FieldKinds = {
    "name": "text",
    "email": "text",
    "role": "word",
    "cluster": "word",
    "tenant": "word",
    "created": "age",
    "id": "number",
    "devices": "number",
    "online": "number",
}
KEY_FIELDS: FieldKinds = {
    "prefix": "text",
    "user": "text",
    "tag": "tag",
    "state": "word",
    "cluster": "word",
    "tenant": "word",
    "created": "age",
    "expires": "age",
    "id": "number",
    "uses": "number",
}
TENANT_FIELDS: FieldKinds = {
    "name": "text",
    "state": "word",
    "cluster": "word",
    "plan": "word",
    "region": "word",
    "pinned": "word",
    "created": "age",
    "id": "number",
    "devices": "number",
    "online": "number",
    "used": "number",
}
PLAN_FIELDS: FieldKinds = {
    "purpose": "word",
    "state": "word",
    "cluster": "word",
    "by": "text",
    "created": "age",
    "id": "number",
    "devices": "number",
    "failed": "number",
}
MOVE_FIELDS: FieldKinds = {
    "tenant": "word",
    "state": "word",
    "cluster": "word",
    "source": "word",
    "target": "word",
    "plan": "number",
    "devices": "number",
}
ROUTE_FIELDS: FieldKinds = {
    "route": "text",
    "router": "text",
    "kind": "word",
    "state": "word",
    "tenant": "word",
    "cluster": "word",
    "ready": "number",
}
POLICY_FIELDS: FieldKinds = {
    "tenant": "word",
    "author": "text",
    "note": "text",
    "state": "word",
    "cluster": "word",
    "created": "age",
    "version": "number",
}
CHANGE_FIELDS: FieldKinds = {
    "event": "word",
    "scope": "text",
    "origin": "text",
    "state": "word",
    "cluster": "word",
    "age": "age",
    "devices": "number",
    "ms": "number",
}
AUDIT_FIELDS: FieldKinds = {
    "actor": "text",
    "action": "text",
    "object": "text",
    "tenant": "word",
    "cluster": "word",
    "age": "age",
    "id": "number",
}
PROCESS_FIELDS: FieldKinds = {
    "name": "text",
    "kind": "word",
    "cluster": "word",
    "state": "word",
    "version": "text",
    "epoch": "number",
}
JOB_FIELDS: FieldKinds = {"name": "text", "state": "word", "result": "text", "failures": "number"}
LOGIN_FIELDS: FieldKinds = {
    "hostname": "text",
    "os": "word",
    "address": "text",
    "login": "text",
    "state": "word",
    "cluster": "word",
}
ALARM_FIELDS: FieldKinds = {
    "severity": "word",
    "rule": "word",
    "object": "text",
    "state": "word",
    "cluster": "word",
    "age": "age",
    "id": "number",
}
CLUSTER_FIELDS: FieldKinds = {"cluster": "word", "state": "word", "owner": "text"}

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_TOKEN = re.compile(r'\s*((?:[^\s"]|"[^"]*"?)+)')
_CONDITION = re.compile(r"(!?)([a-z]+)([:=<>])(.*)", re.S)
_AGE = re.compile(r"(-?\d{1,9}(?:\.\d{1,3})?)([smhdwy])", re.ASCII)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)
_BARE = re.compile(r'[^\s"|!@:=<>]+')


class QueryError(ValueError):
    """What is wrong with a filter, and where: `start` and `end` are offsets into the text."""

    def __init__(self, message: str, start: int = 0, end: int = 0) -> None:
        super().__init__(message)
        self.start = start
        self.end = end


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as written; `field` `any` is a free word."""

    field: str
    op: str
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        text = "|".join(value if _BARE.fullmatch(value) else f'"{value}"' for value in self.values)
        return ("!" if self.negated else "") + ("" if self.field == "any" else self.field + self.op) + text


def parse(text: str, fields: FieldKinds) -> tuple[Condition, ...]:
    """The conditions of a filter line. Raises QueryError with a sentence and the place."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"a filter has at most {MAX_LENGTH} characters", MAX_LENGTH, len(text))
    found: list[Condition] = []
    for match in _TOKEN.finditer(text):
        try:
            found.append(_condition(match[1], fields))
        except QueryError as error:
            raise QueryError(str(error), match.start(1), match.end(1)) from None
    if len(found) > MAX_CONDITIONS:
        raise QueryError(f"a filter has at most {MAX_CONDITIONS} conditions", 0, len(text))
    return tuple(found)


def render(conditions: tuple[Condition, ...]) -> str:
    """The line that parses to these conditions."""
    return " ".join(map(str, conditions))


def terms(conditions: tuple[Condition, ...], fields: FieldKinds) -> tuple[Term, ...]:
    """What the database is asked: every value a parameter, never a part of a statement."""
    return tuple(_term(condition, fields) for condition in conditions)


def cluster_of(conditions: tuple[Condition, ...]) -> str:
    """The one cluster that a filter asks for, '' for any or several."""
    named = [condition for condition in conditions if condition.field == "cluster" and not condition.negated]
    values = named[0].values if len(named) == 1 else ()
    return values[0] if len(values) == 1 and "*" not in values[0] else ""


def _condition(token: str, fields: FieldKinds) -> Condition:
    if token.count('"') % 2:
        raise QueryError("a quotation mark is not closed")
    if token.startswith(("@", "!@")):
        negated = token.startswith("!")
        values = _values(token[1 + negated :])
        return _checked(Condition("cluster", "=", values, negated), fields)
    match = _CONDITION.fullmatch(token)
    if match is None:
        negated = token.startswith("!")
        return Condition("any", ":", _values(token[negated:]), negated)
    return _checked(Condition(match[2], match[3], _values(match[4]), match[1] == "!"), fields)


def _values(text: str) -> tuple[str, ...]:
    values = tuple(part.replace('"', "") for part in re.split(r'\|(?=(?:[^"]*"[^"]*")*[^"]*$)', text))
    if not all(values):
        raise QueryError("a value is missing")
    if len(values) > MAX_ALTERNATIVES:
        raise QueryError(f"at most {MAX_ALTERNATIVES} alternatives")
    return values


def _checked(condition: Condition, fields: FieldKinds) -> Condition:
    field, op = condition.field, condition.op
    kind = fields.get(field)
    if kind is None:
        near = get_close_matches(field, fields, n=1)
        hint = f"did you mean {near[0]}?" if near else "there are " + ", ".join(fields)
        raise QueryError(f"there is no field {field} here: {hint}")
    if kind in ("age", "number"):
        if len(condition.values) > 1:
            raise QueryError(f"{field} takes one value")
        if kind == "age":
            if op not in "<>":
                raise QueryError(f"{field} takes < or > and an age such as 30m, 12h, 7d")
            if not _AGE.fullmatch(condition.values[0]):
                raise QueryError(f"{condition.values[0]} is not an age: 30s, 15m, 12h, 7d, 4w")
        elif not _NUMBER.fullmatch(condition.values[0]):
            raise QueryError(f"{condition.values[0]} is not a number")
    elif op in "<>":
        raise QueryError(f"{field} is text: use {field}:{condition.values[0]}")
    return condition


def _term(condition: Condition, fields: FieldKinds) -> Term:
    kind = fields.get(condition.field, "text")
    first = condition.values[0]
    if kind == "age":
        match = _AGE.fullmatch(first)
        assert match is not None
        number = float(match[1]) * _UNITS[match[2]]
    elif kind == "number":
        number = float(first)
    else:
        exact = condition.op == "=" or kind in ("word", "tag")
        patterns = tuple(_pattern(value, exact, kind) for value in condition.values)
        return Term(condition.field, "like", patterns, 0.0, condition.negated)
    op = {"<": "lt", ">": "gt"}.get(condition.op, "eq")
    return Term(condition.field, op, (), number, condition.negated)


def _pattern(value: str, exact: bool, kind: Kind) -> str:
    value = value.lower()
    if kind == "tag" and not value.startswith(("tag:", "*")):
        value = "tag:" + value
    escaped = value.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    if "*" in escaped:
        return escaped.replace("*", "%")
    return escaped if exact else f"%{escaped}%"


@dataclass(frozen=True, slots=True)
class Goto:
    """A place to go to: a screen and its filter."""

    screen: str
    filter: str = ""


SCREENS: Mapping[str, FieldKinds] = {
    "overview": CLUSTER_FIELDS,
    "devices": DEVICE_FIELDS,
    "users": USER_FIELDS,
    "keys": KEY_FIELDS,
    "routes": ROUTE_FIELDS,
    "policy": POLICY_FIELDS,
    "netmap": CHANGE_FIELDS,
    "rebalance": PLAN_FIELDS,
    "audit": AUDIT_FIELDS,
    "processes": PROCESS_FIELDS,
    "jobs": JOB_FIELDS,
    "logins": LOGIN_FIELDS,
    "alarms": ALARM_FIELDS,
    "tenants": TENANT_FIELDS,
    "moves": MOVE_FIELDS,
}


def tenant_terms(screen: str, tenant: str | None) -> tuple[Term, ...]:
    """What shows a tenant's rows alone, on the screens whose rows belong to tenants."""
    if tenant is None:
        return ()
    fields = SCREENS[screen]
    name = "name" if screen == "tenants" else "tenant"
    return (
        terms((Condition(name, "=", (tenant,)),), fields) if "tenant" in fields or screen == "tenants" else ()
    )


_ALIASES = {"clusters": "overview", "nodes": "devices", "plans": "rebalance", "preauthkeys": "keys"}


def parse_goto(text: str) -> Goto:
    """`devices`, `dev @eu-1`, `keys /state:active`. Raises QueryError."""
    name, _, rest = text.strip().partition(" ")
    names = [screen for screen in SCREENS if screen.startswith(name.lower())]
    names += [screen for alias, screen in _ALIASES.items() if alias.startswith(name.lower())]
    if not name or not names:
        raise QueryError("go to " + ", ".join(SCREENS) + "; a filter may follow", 0, len(name))
    rest = re.sub(r"(^|\s)/", r"\1", rest).strip()
    parse(rest, SCREENS[names[0]])
    return Goto(names[0], rest)
