"""Auth keys, with which devices join. A key's text is shown once, where it is made, and never kept."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import BindingType

from app.errors import BadRequest
from app.fleet import KeyRow, TenantRef
from app.settings_values import parse_duration
from app.tokens import RANDOM_BYTES, make_auth_token
from console.actions import BY_ID
from console.cells import date_text, plural, until
from console.forms import Field, chosen_tenant, tenant_choices
from console.query import Condition, render
from console.screens.base import ListScreen, bindings_of
from console.screens.devices import tags_complaint
from console.store import Ask
from console.table import Column
from console.widgets import box_line, side_by_side


class KeysScreen(ListScreen[KeyRow]):
    """One row for each auth key."""

    NAME = "keys"
    HELP = (
        "Auth keys, with which devices join without a login. Their text is stored nowhere: who lost "
        "it makes a new key. Enter shows the devices that joined with a key."
    )
    NOUN = "key"
    SORT = "id"
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("keys")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("id", "ID", 6, 1, right=True, sort="id"),
        Column("prefix", "PREFIX", 13, 2, sort="prefix"),
        Column("tenant", "TENANT", 12, 3, 1, sort="tenant"),
        Column("cluster", "CLUSTER", 10, 4, 1, sort="cluster"),
        Column("user", "OWNER / TAGS", 18, 1, 3, sort="owner"),
        Column("state", "STATE", 9, 1, sort="state"),
        Column("uses", "USES", 6, 1, right=True, sort="uses"),
        Column("flags", "FLAGS", 18, 5),
        Column("created", "CREATED", 16, 6, sort="created"),
        Column("expires", "EXPIRES", 9, 1, right=True, sort="expires"),
    )

    def key_of(self, row: KeyRow) -> str:
        return f"{row.tenant_id}/{row.id}"

    def name_of(self, row: KeyRow) -> str:
        return f"{row.id}"

    def place_of(self, row: KeyRow) -> tuple[str, str]:
        return row.cluster_id, f"auth_key:{row.id}"

    def copies_of(self, row: KeyRow) -> list[tuple[str, str]]:
        return [("prefix", row.prefix), ("id", str(row.id))]

    def state_of(self, row: KeyRow) -> Text:
        if row.revoked:
            return self.pen.state("off", "revoked")
        if row.expiration is not None and row.expiration <= self.now:
            return self.pen.state("off", "expired")
        if row.used and not row.reusable:
            return self.pen.state("off", "used")
        return self.pen.state("ok", "active")

    def moving(self, row: KeyRow) -> object:
        return None if row.expiration is None else until(row.expiration - self.now)

    def cells_of(self, row: KeyRow) -> dict[str, Text]:
        cell = self.pen.cell
        never = row.expiration is None
        expires = "never " + self.pen.glyph("attention") if never and row.reusable else "never"
        flags = ("reusable" if row.reusable else "one-off") + (" ephemeral" if row.ephemeral else "")
        return {
            "id": cell(row.id),
            "prefix": cell(row.prefix, "muted"),
            "tenant": cell(row.tenant),
            "cluster": cell(row.cluster_id, "muted"),
            "user": cell(row.user or ",".join(row.tags)),
            "state": self.state_of(row),
            "uses": cell(f"{row.uses}/{'∞' if row.reusable else 1}"),
            "flags": cell(flags),
            "created": cell(date_text(row.created), "muted"),
            "expires": cell(until(row.expiration - self.now), "muted")
            if row.expiration is not None
            else cell(expires, "attention" if row.reusable else "muted"),
        }

    def detail_of(self, row: KeyRow, width: int) -> tuple[str, list[Text]]:
        pen = self.pen
        admits = "any number of devices" if row.reusable else "one device"
        facts = [
            box_line(pen, "admits", admits + (", gone when they leave" if row.ephemeral else "")),
            box_line(pen, "owner", row.user or "-"),
            box_line(pen, "tags", " ".join(row.tags) or "-"),
            box_line(
                pen, "here", f"{plural(row.devices, 'device')} that joined with it, {plural(row.uses, 'use')}"
            ),
            box_line(pen, "tenant", f"{row.tenant}  cluster {row.cluster_id}"),
            box_line(pen, "created", f"{date_text(row.created)} ({self.ago(row.created)})"),
            box_line(pen, "expires", "never" if row.expiration is None else date_text(row.expiration)),
            box_line(pen, "secret", "shown once when it was made; only a hash is stored"),
        ]
        return f"key {row.id}  {row.prefix}", side_by_side(facts, width)

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        self.console.go_to("devices", render((Condition("key", "=", (str(row.id),)),)))

    async def do_key_expire(self) -> None:
        action = BY_ID["key.expire"]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"Expire {plural(len(rows), 'key')}",
            [f"key {row.id}  {row.prefix}  {row.tenant}  {row.user or ','.join(row.tags)}" for row in rows],
            "No new device can join with it. Cannot be undone; create a new key instead.",
            [self._ask(row, "key_expire", "expire") for row in rows],
        )

    async def do_key_delete(self) -> None:
        action = BY_ID["key.delete"]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"Delete {plural(len(rows), 'key')}",
            [f"key {row.id}  {row.prefix}  {row.tenant}  {row.user or ','.join(row.tags)}" for row in rows],
            "No new device can join with it; those that joined forget by which key."
            " Cannot be undone; create a new key instead.",
            [self._ask(row, "key_delete", "delete") for row in rows],
            typed=str(rows[0].id if len(rows) == 1 else len(rows)),
        )

    def _ask(self, row: KeyRow, kind: str, verb: str) -> Ask:
        """With what the row shows. Uses only of a one-off key: a leaked one may be used all the time, and
        must be ended all the same."""
        seen: dict[str, Any] = {"revoked": row.revoked, "expiration": row.expiration}
        if not row.reusable:
            seen["uses"] = row.uses
        return Ask(
            *(row.cluster_id, row.tenant_id, kind, {"key_id": row.id, "seen": seen}),
            *(f"auth_key:{row.id}", f"{verb} key {row.id}", f"{row.id}"),
        )

    async def do_key_create(self) -> None:
        self.console.with_tenants(self._form)

    def _form(self, tenants: Sequence[TenantRef]) -> None:
        fields = [
            Field("tenant", "Tenant", choices=tenant_choices(tenants)),
            Field("user", "Owner", hint="a user's name, or leave it empty and give tags"),
            Field(
                "tags", "Tags", hint="tag:web tag:ci", check=lambda text: tags_complaint(text) if text else ""
            ),
            Field("reusable", "Reusable", is_flag=True),
            Field("ephemeral", "Ephemeral", is_flag=True),
            Field("life", "Expires in", "1h", check=life_complaint, hint="30m, 24h, 7d, 0 = never"),
        ]
        self.console.form(
            "New auth key",
            fields,
            "Create",
            "Its text is shown once, after it is stored. Undone by expiring it (x).",
            self._new,
        )

    async def _new(self, answers: dict[str, str]) -> list[Ask]:
        cluster_id, tenant_id = chosen_tenant(answers["tenant"])
        user_id = None
        if answers["user"]:
            user_id = await self.store.find_user(cluster_id, tenant_id, answers["user"])
            if user_id is None:
                raise BadRequest(f"this tenant has no user {answers['user']}", code="no_user")
        elif not answers["tags"]:
            raise BadRequest("a key needs an owner or tags", code="key_without_owner")
        life_s = parse_duration(answers["life"])
        secret, token = make_auth_token(tenant_id, secrets.token_bytes(RANDOM_BYTES))
        args = {
            "prefix": token.prefix,
            "hash_hex": token.hash.hex(),
            "user_id": user_id,
            "reusable": bool(answers["reusable"]),
            "ephemeral": bool(answers["ephemeral"]),
            "tags": answers["tags"].split(),
            "expiration": self.now + life_s if life_s else None,
        }
        label = f"create key {token.prefix}"
        return [
            Ask(cluster_id, tenant_id, "key_create", args, f"auth_key {token.prefix}", label, secret=secret)
        ]


def life_complaint(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        return str(error)
    return ""
