"""Policies of tenants, all versions: read, edited, checked, put into force, and rolled back to."""

from __future__ import annotations

import asyncio
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import SuspendNotSupported
from textual.binding import BindingType

from app.errors import HsError
from app.fleet import TenantRef
from app.fleet_lists import PolicyRow
from app.model import TenantId
from console.actions import BY_ID
from console.cells import safe
from console.forms import EditorDialog, Field, FormDialog, chosen_tenant, tenant_choices
from console.screens.base import bindings_of
from console.screens.plain import PlainScreen
from console.store import Ask
from console.table import Column

#: A policy whose impact takes longer is put into force without knowing it, or not at all.
JUDGE_DEADLINE_S = 10.0
#: What the first policy of a tenant is written from: as it is without one.
FIRST = """{
  // Without a policy all devices of a tenant reach each other; so does this rule.
  "acls": [{"action": "accept", "src": ["*"], "dst": ["*:*"]}],
}
"""


@dataclass(frozen=True, slots=True)
class Base:
    """What a policy is made from: the newest `version` and its text; 0 and FIRST before there is one."""

    cluster_id: str
    tenant_id: TenantId
    tenant: str
    version: int
    text: str


class PolicyScreen(PlainScreen[PolicyRow]):
    """One row for each version of a tenant's policy, those in force first."""

    NAME = "policy"
    HELP = (
        "All versions of every tenant's policy, the newest in force. An edit is judged first: what it "
        "allows, what it takes away, which of its own tests fail."
    )
    NOUN = "version"
    HINT = "without one all devices of a tenant reach each other; N writes the first"
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

    async def do_policy_reach(self) -> None:
        row = self.current
        assert row is not None
        from console.screens.reach import ask_reach  # brings the policy engine: not at the start

        ask_reach(self, row.cluster_id, row.tenant_id, row.tenant)

    async def do_policy_rollback(self) -> None:
        row = self.current
        assert row is not None
        if row.version == row.newest:
            self.console.say("this version is in force", "warning")
            return
        text, base = await self._text(row, row.version), await self._base(row)
        if text is not None and base is not None:
            note = f"rollback to version {row.version}"
            complaint = await self._confirm("policy.rollback", base, text, note)
            if complaint:
                self.console.say(complaint, "error")

    async def do_policy_edit(self) -> None:
        row = self.current
        assert row is not None
        base = await self._base(row)
        if base is not None:
            await self._edit("policy.edit", base)

    async def do_policy_write(self) -> None:
        self.console.with_tenants(self._choose)

    def _choose(self, tenants: Sequence[TenantRef]) -> None:
        names = {(tenant.cluster_id, tenant.id): tenant.name for tenant in tenants}

        async def chosen(answers: dict[str, str] | None) -> None:
            if answers is None:
                return
            place = chosen_tenant(answers["tenant"])
            try:
                stored = await self.store.snapshot(*place)
            except HsError as error:
                self.console.say(error.message, "error")
                return
            text = FIRST if stored.text is None else stored.text
            await self._edit("policy.write", Base(*place, names[place], stored.version, text))

        told = "Nothing is sent before it was judged and confirmed. Undone by rolling back (B)."
        fields = [Field("tenant", "Tenant", choices=tenant_choices(tenants))]
        self.app.push_screen(FormDialog(self.pen, "Write a policy", fields, "Write", told), chosen)

    async def _base(self, row: PolicyRow) -> Base | None:
        text = await self._text(row, row.newest)
        if text is None:
            return None
        return Base(row.cluster_id, TenantId(row.tenant_id), row.tenant, row.newest, text)

    async def _edit(self, action_id: str, base: Base) -> None:
        """In the operator's editor, or in one of ours where the terminal cannot be lent."""
        try:
            new = self._in_editor(base.text)
        except SuspendNotSupported:
            self._in_dialog(action_id, base)
        except OSError as error:
            self.console.say(f"the editor cannot be started: {error}", "error")
        else:
            await self._edited(action_id, base, new)

    def _in_editor(self, old: str) -> str:
        """What the editor leaves; it has the terminal until it ends, and the console stands still."""
        with tempfile.TemporaryDirectory(prefix="hs-policy-") as directory:
            file = Path(directory) / "policy.hujson"
            file.write_text(old, encoding="utf-8")
            with self.app.suspend():
                subprocess.run([*shlex.split(self.console.editor), str(file)], check=False)  # noqa: S603
            return file.read_text(encoding="utf-8", errors="replace")

    def _in_dialog(self, action_id: str, base: Base) -> None:
        if any(safe(line.expandtabs()) != line.expandtabs() for line in base.text.splitlines()):
            self.console.say("it holds characters that cannot be shown here: use hs-node policy set", "error")
            return

        async def left(text: str | None) -> None:
            if text is not None:
                await self._edited(action_id, base, text)

        came = f"from version {base.version}" if base.version else "the first"
        self.app.push_screen(EditorDialog(self.pen, f"Policy of {base.tenant}, {came}", base.text), left)

    async def _edited(self, action_id: str, base: Base, new: str) -> None:
        """Asked before it is sent. What may not be used is not sent, and kept in a file."""
        if new == base.text and base.version:
            self.console.say("nothing was changed", "warning")
            return
        complaint = await self._confirm(action_id, base, new, "edited at the console")
        if complaint:
            self.console.say(f"{complaint}; the draft is {keep_draft(new)}", "error")

    async def _confirm(self, action_id: str, base: Base, new: str, note: str) -> str:
        """Asks with what it would change; why nobody was asked, empty when somebody was."""
        from console.judging import difference_lines, judge, judgement_lines  # brings the policy engine

        failing, old = "", base.text if base.version else ""
        try:
            async with asyncio.timeout(JUDGE_DEADLINE_S):
                snapshot = await self.store.snapshot(base.cluster_id, base.tenant_id)
                judged = await asyncio.to_thread(judge, new, snapshot)
                found, failing = judgement_lines(self.pen, judged), judged.failing
        except HsError as error:
            return f"not sent: {error.message}"
        except TimeoutError:
            late = f"what it changes was not worked out in {JUDGE_DEADLINE_S:g} s: see hs-node policy check"
            found = [self.pen.state("attention", late)]
        args = {"text": new, "expected_version": base.version, "note": note, "override": bool(failing)}
        label = f"policy of {base.tenant}, version {base.version + 1}"
        self.console.confirm(
            BY_ID[action_id],
            f"Put into force as version {base.version + 1} for {base.tenant}",
            [],
            "The owner checks it once more. Undone by rolling back.",
            [Ask(base.cluster_id, base.tenant_id, "policy_set", args, "policy", label)],
            typed=base.tenant,
            why="A test of it fails, it does not do what it says." if failing else "",
            report=Text("\n", end="").join([*found, *difference_lines(self.pen, old, new)]),
        )
        return ""


def keep_draft(text: str) -> str:
    """The name of a new file that holds it, so nothing that was typed is lost."""
    handle, name = tempfile.mkstemp(prefix="hs-policy-", suffix=".hujson")
    with open(handle, "w", encoding="utf-8") as draft:
        draft.write(text)
    return name
