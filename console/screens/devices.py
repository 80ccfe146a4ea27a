"""Devices of all clusters: who they belong to, whether they are here, and what can be done to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from rich.text import Text
from textual.binding import BindingType

from app.errors import BadRequest
from app.fleet import DeviceRow, View
from app.names import check_label, is_tag
from app.scopes import parse_scope
from console.actions import BY_ID
from console.cells import date_text, plural, until
from console.forms import Field
from console.rebuild import NOTHING_TO_UNDO, rebuild_ask
from console.screens.base import ListScreen, bindings_of
from console.screens.record import RecordScreen
from console.store import Ask
from console.table import Column
from console.widgets import box_line, side_by_side

#: Key material shown: both ends suffice to compare.
KEY_ENDS = (6, 4)
#: Kind of request -> what of a row it must find as it was shown.
SEEN = {
    "device_expire": ("expiry",),
    "device_rename": ("name",),
    "device_delete": ("name",),
    "device_tag": ("tags", "user_id"),
    "device_move_user": ("user_id",),
}


class DevicesScreen(ListScreen[DeviceRow]):
    """One row for each device."""

    NAME = "devices"
    HELP = (
        "Every device of every cluster, whether it is here now, and whose it is. The pane below "
        "follows the cursor; enter opens all that is known of a device, its peers and filter as its "
        "owner sees them."
    )
    NOUN = "device"
    HINT = "one joins with an auth key of screen 4: tailscale up --login-server=URL --auth-key=KEY"
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("devices")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("name", "NAME", 16, 1, 3, sort="name"),
        Column("cluster", "CLUSTER", 9, 2, 1, sort="cluster"),
        Column("id", "ID", 6, 5, right=True, sort="id"),
        Column("user", "USER / TAG", 13, 1, 2, sort="user"),
        Column("ip", "IPV4", 15, 3, sort="ip"),
        Column("os", "OS", 8, 6, sort="os"),
        Column("version", "VERSION", 9, 7, sort="version"),
        Column("state", "STATE", 9, 1, sort="state"),
        Column("seen", "SEEN", 6, 1, right=True, sort="seen"),
        Column("expires", "EXPIRES", 7, 4, right=True, sort="expires"),
    )

    def read(self, view: View) -> Callable[[], Awaitable[Any]]:
        return lambda: self.store.devices(view)

    def key_of(self, row: DeviceRow) -> str:
        return f"{row.tenant_id}/{row.id}"

    def name_of(self, row: DeviceRow) -> str:
        return row.name

    def place_of(self, row: DeviceRow) -> tuple[str, str]:
        return row.cluster_id, f"device:{row.id}"

    def copies_of(self, row: DeviceRow) -> list[tuple[str, str]]:
        return [
            ("name", row.name),
            ("ipv4", row.ipv4),
            ("ipv6", row.ipv6),
            ("id", str(row.id)),
            ("node key", f"nodekey:{row.node_key}"),
        ]

    def state_of(self, row: DeviceRow) -> Text:
        if row.expiry is not None and row.expiry <= self.now:
            return self.pen.state("failed", "expired")
        return self.pen.state("ok", "online") if row.online else self.pen.state("off", "offline")

    def moving(self, row: DeviceRow) -> object:
        return self.seen_of(row), self.expires_of(row), row.expiry is not None and row.expiry <= self.now

    def seen_of(self, row: DeviceRow) -> str:
        return "now" if row.online else self.ago(row.last_seen)

    def expires_of(self, row: DeviceRow) -> str:
        return "never" if row.expiry is None else until(row.expiry - self.now)

    def cells_of(self, row: DeviceRow) -> dict[str, Text]:
        cell = self.pen.cell
        return {
            "name": cell(row.name),
            "cluster": cell(row.cluster_id, "muted"),
            "id": cell(row.id, "muted"),
            "user": cell(owner_text(row)),
            "ip": cell(row.ipv4),
            "os": cell(row.os),
            "version": cell(row.version.partition("-")[0]),
            "state": self.state_of(row),
            "seen": cell(self.seen_of(row), "muted"),
            "expires": cell(self.expires_of(row), "muted"),
        }

    def detail_of(self, row: DeviceRow, width: int) -> tuple[str, list[Text]]:
        pen = self.pen
        ends = ", ".join(row.endpoints) or "none known"
        by = f" by key {row.auth_key_id}" if row.auth_key_id else ""
        facts = [
            box_line(pen, "hostname", row.hostname),
            box_line(pen, "tenant", f"{row.tenant}  cluster {row.cluster_id}"),
            box_line(pen, "addresses", f"{row.ipv4}  {row.ipv6}"),
            box_line(pen, "node key", short_key(row.node_key)),
            box_line(pen, "machine", short_key(row.machine_key)),
            box_line(pen, "relay", str(row.home_derp or "none")),
            box_line(pen, "created", date_text(row.created) + by),
            box_line(pen, "client", f"{row.os} {row.version} capver {row.capver}"),
            box_line(pen, "endpoints", ends),
        ]
        kind = "  ephemeral" if row.ephemeral else ""
        return f"{row.name}  {owner_text(row)}{kind}", side_by_side(facts, width)

    async def do_row_open(self) -> None:
        self._open_record("summary")

    async def do_device_look(self) -> None:
        self._open_record("peers")

    async def do_policy_reach(self) -> None:
        row = self.current
        assert row is not None
        from console.screens.reach import ask_reach  # brings the policy engine: not at the start

        ask_reach(self, row.cluster_id, row.tenant_id, row.tenant, row.name)

    def _open_record(self, tab: str) -> None:
        row = self.current
        assert row is not None
        title, lines = self.detail_of(row, 60)
        summary = Text("\n", end="").join([self.state_of(row), *lines])
        self.app.push_screen(RecordScreen(row, title, summary, tab))

    # -- requests -------------------------------------------------------------------------------

    def _ask(self, row: DeviceRow, kind: str, label: str, **args: Any) -> Ask:
        """With what the row shows of that which the request would change."""
        seen = {name: getattr(row, name) for name in SEEN[kind]}
        asked = {"device_id": row.id, **args, "seen": seen}
        return Ask(row.cluster_id, row.tenant_id, kind, asked, f"device:{row.id}", f"{label} {row.name}")

    def _lines(self, rows: list[DeviceRow]) -> list[str]:
        return [f"{row.name}  {row.ipv4}  {owner_text(row)}  {row.cluster_id}" for row in rows]

    async def do_device_expire(self) -> None:
        action = BY_ID["device.expire"]
        rows = self.chosen(action)
        at = self.now
        self.console.confirm(
            action,
            f"Expire {plural(len(rows), 'device')}",
            self._lines(rows),
            "The login ends now, for its peers too, until somebody logs in on it again. Undone by X.",
            [self._ask(row, "device_expire", "expire", at=at) for row in rows],
        )

    async def do_device_never_expire(self) -> None:
        action = BY_ID["device.never_expire"]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"Let {plural(len(rows), 'device')} never expire",
            self._lines(rows),
            "The login lasts until the device is expired or deleted. Undone by expiring it (x).",
            [self._ask(row, "device_expire", "never expire", at=None) for row in rows],
        )

    async def do_device_delete(self) -> None:
        action = BY_ID["device.delete"]
        rows = self.chosen(action)
        self.console.confirm(
            action,
            f"Delete {plural(len(rows), 'device')}",
            self._lines(rows),
            "Peers forget it, it is logged out. Cannot be undone: it must join anew.",
            [self._ask(row, "device_delete", "delete") for row in rows],
            typed=rows[0].name if len(rows) == 1 else str(len(rows)),
        )

    async def do_device_rename(self) -> None:
        rows = self.chosen(BY_ID["device.rename"])
        row = rows[0]
        field = Field("name", "New name", row.name, check=label_complaint)
        self.console.form(
            f"Rename {row.name}",
            [field],
            "Rename",
            "Peers reach it by the new name at once, by the old one no more. Undone by renaming it back.",
            lambda answers: [self._ask(row, "device_rename", "rename", name=answers["name"])],
            lambda answers: [self._ask(row, "device_rename", "rename", name=answers["name"])],
        )

    async def do_device_tag(self) -> None:
        rows = self.chosen(BY_ID["device.tag"])
        field = Field("tags", "Tags", " ".join(rows[0].tags), check=tags_complaint, hint="tag:web tag:ci")

        def asks(answers: dict[str, str]) -> list[Ask]:
            return [self._ask(row, "device_tag", "tag", tags=answers["tags"].split()) for row in rows]

        self.console.form(
            f"Tags of {plural(len(rows), 'device')}",
            [field],
            "Replace tags",
            "It belongs to its tags from then on: it has no user, and its login does not expire. Undone by"
            " giving it the former tags; what was a user's by logging in on it again.",
            asks,
            asks,
        )

    async def do_device_move_user(self) -> None:
        rows = self.chosen(BY_ID["device.move_user"])
        field = Field("user", "To user", rows[0].user, check=lambda text: "" if text else "a user's name")

        async def asks(answers: dict[str, str]) -> list[Ask]:
            found = []
            for row in rows:
                user_id = await self.store.find_user(row.cluster_id, row.tenant_id, answers["user"])
                if user_id is None:
                    raise BadRequest(f"tenant {row.tenant} has no user {answers['user']}", code="no_user")
                found.append(self._ask(row, "device_move_user", "move", user_id=user_id))
            return found

        self.console.form(
            f"Move {plural(len(rows), 'device')}",
            [field],
            "Move",
            "It belongs to that user from then on, with the access of that user. Undone by moving it back.",
            asks,
            lambda _: [self._ask(row, "device_move_user", "move") for row in rows],
        )

    async def do_device_rebuild(self) -> None:
        rows = self.chosen(BY_ID["device.rebuild"])
        hint = "device, user, tag:NAME, tenant or cluster"
        field = Field("scope", "Scope", "device", check=rebuild_complaint, hint=hint)

        def asks(answers: dict[str, str]) -> list[Ask]:
            found = {}
            for row in rows:
                scope = scope_of(row, answers["scope"])
                place = (row.cluster_id, scope if scope == "cluster" else row.tenant_id, scope)
                label = f"rebuild {scope} of {row.tenant}"
                found[place] = rebuild_ask(row.cluster_id, row.tenant_id, scope, label)
            return list(found.values())

        self.console.form(
            f"Rebuild netmaps from {plural(len(rows), 'device')}",
            [field],
            "Rebuild",
            NOTHING_TO_UNDO,
            asks,
            asks,
        )


def scope_of(row: DeviceRow, word: str) -> str:
    """The scope that a word means for the device of a row. Raises BadRequest."""
    if word == "device":
        return f"device:{row.id}"
    if word == "user":
        if row.user_id is None:
            raise BadRequest(f"{row.name} belongs to no user", code="no_user")
        return f"user:{row.user_id}"
    return word


def rebuild_complaint(text: str) -> str:
    if text in ("device", "user"):
        return ""
    try:
        scope = parse_scope(text)
    except BadRequest:
        return "device, user, tag:NAME, tenant or cluster"
    return "" if scope.kind in ("tag", "tenant", "cluster") else "device, user, tag:NAME, tenant or cluster"


def owner_text(row: DeviceRow) -> str:
    return row.user or ",".join(row.tags)


def short_key(text: str) -> str:
    return text[: KEY_ENDS[0]] + "…" + text[-KEY_ENDS[1] :]


def label_complaint(text: str) -> str:
    try:
        check_label(text)
    except BadRequest as error:
        return error.message
    return ""


def tags_complaint(text: str) -> str:
    wrong = [tag for tag in text.split() if not is_tag(tag)]
    if wrong:
        return f"{wrong[0]} is not a tag; tags look like tag:web"
    return "" if text else "at least one tag"
