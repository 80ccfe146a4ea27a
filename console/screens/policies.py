"""Policies of tenants, all versions: read, edited, checked, put into force, and rolled back to."""

from __future__ import annotations

import difflib
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import SuspendNotSupported
from textual.binding import BindingType

from app.errors import HsError
from app.fleet_lists import PolicyRow
from app.model import TenantId
from app.policy.reader import read
from console.actions import BY_ID
from console.cells import safe
from console.dialogs import EditorDialog
from console.screens.base import bindings_of
from console.screens.plain import PlainScreen
from console.store import Ask
from console.table import Column


class PolicyScreen(PlainScreen[PolicyRow]):
    """One row for each version of a tenant's policy, those in force first."""

    NAME = "policy"
    NOUN = "version"
    SORT = "state"
    STATES: ClassVar = {"active": "ok", "former": "off"}
    TIMES: ClassVar = frozenset({"created"})
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("policy")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("tenant", "TENANT", 16, 1, 2, sort="tenant"),
        Column("version", "VERSION", 8, 1, right=True, sort="version"),
        Column("state", "STATE", 10, 1, sort="state"),
        Column("author", "AUTHOR", 16, 1, 1, sort="author"),
        Column("created", "SINCE", 16, 2, sort="created"),
        Column("size", "BYTES", 8, 3, right=True, sort="size"),
        Column("cluster_id", "CLUSTER", 10, 4, 1, sort="cluster"),
        Column("note", "NOTE", 14, 5, 3),
    )

    def name_of(self, row: PolicyRow) -> str:
        return f"policy of {row.tenant}, version {row.version}"

    def place_of(self, row: PolicyRow) -> tuple[str | None, str]:
        return row.cluster_id, "policy"

    def copies_of(self, row: PolicyRow) -> list[tuple[str, str]]:
        return [("tenant", row.tenant), ("version", str(row.version))]

    async def _text(self, row: PolicyRow, version: int) -> str | None:
        try:
            return await self.store.policy_text(row.cluster_id, TenantId(row.tenant_id), version)
        except HsError as error:
            self.console.say(error.message, "error")
            return None

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        text = await self._text(row, row.version)
        if text is not None:
            lines = [self.pen.cell(line.expandtabs(4)) for line in text.splitlines()]
            self.console.open_page(self.name_of(row), Text("\n", end="").join(lines))

    async def do_policy_rollback(self) -> None:
        row = self.current
        assert row is not None
        if row.version == row.newest:
            self.console.say("this version is in force", "warning")
            return
        text, now = await self._text(row, row.version), await self._text(row, row.newest)
        if text is not None and now is not None:
            self._confirm("policy.rollback", row, now, text, f"rollback to version {row.version}")

    async def do_policy_edit(self) -> None:
        """In the operator's editor, or in one of ours where the terminal cannot be lent."""
        row = self.current
        assert row is not None
        old = await self._text(row, row.newest)
        if old is None:
            return
        try:
            new = self._in_editor(old)
        except SuspendNotSupported:
            self._in_dialog(row, old)
        except OSError as error:
            self.console.say(f"the editor cannot be started: {error}", "error")
        else:
            self._edited(row, old, new)

    def _in_editor(self, old: str) -> str:
        """What the editor leaves; it has the terminal until it ends, and the console stands still."""
        with tempfile.TemporaryDirectory(prefix="hs-policy-") as directory:
            file = Path(directory) / "policy.hujson"
            file.write_text(old, encoding="utf-8")
            with self.app.suspend():
                subprocess.run([*shlex.split(self.console.editor), str(file)], check=False)  # noqa: S603
            return file.read_text(encoding="utf-8", errors="replace")

    def _in_dialog(self, row: PolicyRow, old: str) -> None:
        if any(safe(line.expandtabs()) != line.expandtabs() for line in old.splitlines()):
            self.console.say("it holds characters that cannot be shown here: use hs-node policy set", "error")
            return

        def left(text: str | None) -> None:
            if text is not None:
                self._edited(row, old, text)

        title = f"Policy of {row.tenant}, from version {row.newest}"
        self.app.push_screen(EditorDialog(self.pen, title, old), left)

    def _edited(self, row: PolicyRow, old: str, new: str) -> None:
        """Asked before it is sent. What cannot be read is not sent, and kept in a file."""
        if new == old:
            self.console.say("nothing was changed", "warning")
            return
        try:
            read(new)
        except HsError as error:
            handle, name = tempfile.mkstemp(prefix="hs-policy-", suffix=".hujson")
            with open(handle, "w", encoding="utf-8") as draft:
                draft.write(new)
            self.console.say(f"{error.message}; the draft is {name}", "error")
            return
        self._confirm("policy.edit", row, old, new, "edited at the console")

    def _confirm(self, action_id: str, row: PolicyRow, old: str, new: str, note: str) -> None:
        lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
        changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        args = {"text": new, "expected_version": row.newest, "note": note}
        label = f"policy of {row.tenant}, version {row.newest + 1}"
        self.console.confirm(
            BY_ID[action_id],
            f"Put into force as version {row.newest + 1} for {row.tenant}",
            changed,
            "The owner checks it against users, devices and its own tests first, and refuses it with line and"
            " reason where it does not pass. Undone by rolling back.",
            [Ask(row.cluster_id, TenantId(row.tenant_id), "policy_set", args, "policy", label)],
            typed=row.tenant,
        )
