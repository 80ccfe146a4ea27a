"""Policies of tenants, all versions: read, edited, checked, put into force, and rolled back to."""

from __future__ import annotations

import asyncio
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
        """In $EDITOR; a draft that cannot be read is kept and named, and nothing is sent."""
        row = self.current
        assert row is not None
        old = await self._text(row, row.newest)
        if old is None:
            return
        draft = Path(tempfile.mkdtemp(prefix="hs-policy-")) / f"{row.tenant_id}-v{row.newest + 1}.hujson"
        await asyncio.to_thread(draft.write_text, old, encoding="utf-8")
        try:
            with self.app.suspend():
                command = [*shlex.split(self.console.editor), str(draft)]
                # The operator's own editor, which has the terminal until it ends.
                code = subprocess.run(command, check=False).returncode  # noqa: ASYNC221, S603
        except SuspendNotSupported:
            title = f"Policy of {row.tenant}, from version {row.newest}"
            self.app.push_screen(
                EditorDialog(self.pen, title, old),
                lambda text: None if text is None else self._edited(row, old, text, draft),
            )
            return
        except OSError as error:
            self.console.say(f"the editor cannot be started: {error}", "error")
            return
        if code:
            self.console.say(f"the editor ended with {code}; the draft is {draft}", "warning")
            return
        new = await asyncio.to_thread(draft.read_text, encoding="utf-8", errors="replace")
        self._edited(row, old, new, draft)

    def _edited(self, row: PolicyRow, old: str, new: str, draft: Path) -> None:
        if new == old:
            self.console.say("nothing was changed", "warning")
            return
        draft.write_text(new, encoding="utf-8")
        try:
            read(new)
        except HsError as error:
            self.console.say(f"{error.message}; the draft is {draft}", "error")
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
