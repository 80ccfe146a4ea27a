"""Users of all tenants, and how many devices they own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import BindingType

from app.fleet import TenantRef, UserRow
from app.policy.people import ROLES
from console.actions import BY_ID
from console.cells import date_text, plural
from console.forms import Field, chosen_tenant, tenant_choices
from console.query import Condition, render
from console.rebuild import NOTHING_TO_UNDO, rebuild_ask
from console.screens.base import ListScreen, bindings_of
from console.store import Ask
from console.table import Column
from console.widgets import box_line, side_by_side

MAX_NAME = 255


class UsersScreen(ListScreen[UserRow]):
    """One row for each user."""

    NAME = "users"
    HELP = "Who owns devices, and how many of them are here. Enter shows a user's devices."
    NOUN = "user"
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("users")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("name", "NAME", 20, 1, 3, sort="name"),
        Column("id", "ID", 6, 3, right=True, sort="id"),
        Column("tenant", "TENANT", 14, 1, 1, sort="tenant"),
        Column("cluster", "CLUSTER", 10, 2, 1, sort="cluster"),
        Column("devices", "DEVICES", 9, 1, right=True, sort="devices"),
        Column("online", "ONLINE", 9, 1, right=True, sort="online"),
        Column("keys", "KEYS", 5, 4, right=True),
        Column("role", "ROLE", 9, 4, sort="role"),
        Column("email", "EMAIL", 16, 5, 2),
        Column("created", "CREATED", 16, 6, sort="created"),
    )

    def key_of(self, row: UserRow) -> str:
        return f"{row.tenant_id}/{row.id}"

    def name_of(self, row: UserRow) -> str:
        return row.name

    def place_of(self, row: UserRow) -> tuple[str, str]:
        return row.cluster_id, f"user:{row.id}"

    def copies_of(self, row: UserRow) -> list[tuple[str, str]]:
        return [("name", row.name), ("id", str(row.id)), ("email", row.email)]

    def cells_of(self, row: UserRow) -> dict[str, Text]:
        cell = self.pen.cell
        return {
            "name": cell(row.name),
            "id": cell(row.id, "muted"),
            "tenant": cell(row.tenant),
            "cluster": cell(row.cluster_id, "muted"),
            "devices": cell(row.devices),
            "online": cell(row.online, "ok" if row.online else "off"),
            "keys": cell(row.keys, "muted"),
            "role": cell(row.role, "muted" if row.role == "member" else "strong"),
            "email": cell(row.email),
            "created": cell(date_text(row.created), "muted"),
        }

    def detail_of(self, row: UserRow, width: int) -> tuple[str, list[Text]]:
        pen = self.pen
        facts = [
            box_line(pen, "full name", row.display_name or "-"),
            box_line(pen, "email", row.email or "-"),
            box_line(pen, "tenant", f"{row.tenant}  cluster {row.cluster_id}"),
            box_line(
                pen,
                "owns",
                f"{plural(row.devices, 'device')} ({row.online} online), {plural(row.keys, 'key')}",
            ),
            box_line(pen, "role", row.role),
            box_line(pen, "created", f"{date_text(row.created)} ({self.ago(row.created)})"),
        ]
        return row.name, side_by_side(facts, width)

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        conditions = (Condition("user", "=", (row.name,)), Condition("tenant", "=", (row.tenant,)))
        self.console.go_to("devices", render(conditions))

    async def do_user_create(self) -> None:
        self.console.with_tenants(self._form)

    def _form(self, tenants: Sequence[TenantRef]) -> None:
        fields = [
            Field("tenant", "Tenant", choices=tenant_choices(tenants)),
            Field("name", "Name", check=name_complaint, hint="alice or alice@example.com"),
            Field("display_name", "Full name"),
            Field("email", "Email"),
        ]

        def asks(answers: dict[str, str]) -> list[Ask]:
            cluster_id, tenant_id = chosen_tenant(answers.pop("tenant"))
            what = f"user {answers['name']}"
            return [Ask(cluster_id, tenant_id, "user_create", dict(answers), what, f"create {what}")]

        effect = "It owns nothing until devices log in as it. Undone by deleting it (D)."
        self.console.form("New user", fields, "Create", effect, asks)

    async def do_user_rename(self) -> None:
        row = self.chosen(BY_ID["user.rename"])[0]
        field = Field("name", "New name", row.name, check=name_complaint)

        def asks(answers: dict[str, str]) -> list[Ask]:
            return [self._ask(row, "user_rename", "rename", name=answers["name"])]

        self.console.form(
            f"Rename {row.name}",
            [field],
            "Rename",
            "Policies that name it by the old name mean it no more. Undone by renaming it back.",
            asks,
            asks,
        )

    async def do_user_role(self) -> None:
        row = self.chosen(BY_ID["user.role"])[0]

        def asks(answers: dict[str, str]) -> list[Ask]:
            return [self._ask(row, "user_role", "role of", role=answers["role"])]

        self.console.form(
            f"Role of {row.name}",
            [Field("role", "Role", row.role, tuple((role, role) for role in reversed(ROLES)))],
            "Give",
            "Policies that name roles (autogroup:admin) give its devices other access at once."
            f" Undone by giving the former role again: {row.role}.",
            asks,
            asks,
        )

    async def do_user_delete(self) -> None:
        action = BY_ID["user.delete"]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"Delete {plural(len(rows), 'user')}",
            [f"{row.name}  tenant {row.tenant}  {plural(row.devices, 'device')}" for row in rows],
            "Refused while it owns devices. Its auth keys are deleted too. Cannot be undone.",
            [self._ask(row, "user_delete", "delete") for row in rows],
            typed=rows[0].name if len(rows) == 1 else str(len(rows)),
        )

    async def do_user_rebuild(self) -> None:
        action = BY_ID["user.rebuild"]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"Rebuild netmaps of {plural(len(rows), 'user')}",
            [f"{row.name}  tenant {row.tenant}  {plural(row.devices, 'device')}" for row in rows],
            NOTHING_TO_UNDO,
            [
                rebuild_ask(row.cluster_id, row.tenant_id, f"user:{row.id}", f"rebuild user {row.name}")
                for row in rows
            ],
        )

    def _ask(self, row: UserRow, kind: str, label: str, **args: Any) -> Ask:
        """With what the row shows of that which the request would change."""
        seen = {"role": row.role} if kind == "user_role" else {"name": row.name}
        asked = {"user_id": row.id, **args, "seen": seen}
        return Ask(row.cluster_id, row.tenant_id, kind, asked, f"user:{row.id}", f"{label} {row.name}")


def name_complaint(text: str) -> str:
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        return f"a user name has 1 to {MAX_NAME} printable characters"
    return ""
