"""Plans for moving tenants: proposed, approved, followed, held up, undone; and the moves they consist of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.binding import BindingType

from app.fleet_lists import MoveRow, PlanRow
from console.actions import BY_ID, Action
from console.cells import count_text, date_text, plural
from console.plan_text import load_parts, progress_words, safety_lines
from console.query import Condition, render
from console.screens.base import ListScreen, bindings_of
from console.screens.window import RowT
from console.store import Ask
from console.table import Column
from console.widgets import box_line, side_by_side

STATES = {
    "proposed": "unknown",
    "applying": "change",
    "paused": "attention",
    "verifying": "change",
    "done": "ok",
    "stopped": "off",
    "failed": "failed",
    "rolling_back": "change",
    "rolled_back": "off",
}
MOVE_STATES = {"waiting": "wait", "done": "ok", "skipped": "off", "failed": "failed", "undone": "off"}
#: What each verb leads to, in the words of its dialog.
EFFECTS = {
    "approve": "Refused if a step is not possible any more. The tenants move in waves, as hs-acs paces them;"
    " their devices reconnect within seconds and keep addresses, names and keys. It can be held up (s), ended"
    " (S) and undone (B) at any time.",
    "pause": "The wave under way is finished, the next is not begun. Undone by resuming (r).",
    "resume": "The next wave begins. Undone by holding it up again (s), what has moved by rolling back (B).",
    "stop": "The plan ends where it is: who has moved stays where it is now. Cannot be undone; what has moved"
    " is undone by rolling back (B).",
    "rollback": "Who has moved goes back, the last first; a cluster that was drained takes tenants again."
    " Cannot be undone; make a new plan instead.",
}
BAR_CELLS = 16


class _PlanActions(ListScreen[RowT]):
    """What can be done to the plan of the row under the cursor."""

    def plan_of(self, row: RowT) -> tuple[int, int, list[str]]:
        """Its id, its version as shown, and what it is in words."""
        raise KeyError(row)

    def warning_of(self, row: RowT) -> str:
        """What speaks against its plan, for which a reason is wanted; empty when nothing does."""
        raise KeyError(row)

    async def do_plan_approve(self) -> None:
        self._ask(BY_ID["plan.approve"], "approve")

    async def do_plan_pause(self) -> None:
        self._ask(BY_ID["plan.pause"], "pause")

    async def do_plan_resume(self) -> None:
        self._ask(BY_ID["plan.resume"], "resume")

    async def do_plan_stop(self) -> None:
        self._ask(BY_ID["plan.stop"], "stop")

    async def do_plan_rollback(self) -> None:
        self._ask(BY_ID["plan.rollback"], "rollback")

    async def do_plan_new(self) -> None:
        self.console.confirm(
            BY_ID["plan.new"],
            "Propose a plan",
            ["all clusters"],
            "hs-acs works out the fewest devices to move so that no cluster is fuller than its share."
            " Nobody moves before the plan is approved. Undone by stopping it (S).",
            [Ask("", None, "rebalance_propose", {}, "rebalance", "propose a plan", dedup="rebalance")],
        )

    def _ask(self, action: Action, verb: str) -> None:
        row = self.current
        assert row is not None
        plan_id, version, words = self.plan_of(row)
        args = {"plan": plan_id, "verb": verb, "version": version}
        self.console.confirm(
            action,
            f"{action.label.capitalize()} plan {plan_id}",
            words,
            EFFECTS[verb],
            [Ask("", None, "rebalance_verb", args, f"rebalance:{plan_id}", f"{action.label} plan {plan_id}")],
            typed=str(plan_id) if action.tier > 1 else "",
            why=self.warning_of(row) if verb == "approve" else "",
        )


class RebalanceScreen(_PlanActions[PlanRow]):
    """One row for each plan, the newest first."""

    NAME = "rebalance"
    HELP = (
        "Plans for moving tenants between clusters: proposed, looked through, approved, carried out "
        "in waves, undone. Enter shows the moves of a plan."
    )
    NOUN = "plan"
    HINT = "N works one out; one that is proposed moves nobody"
    SORT = "id"
    NEWEST_FIRST = True
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("rebalance")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("id", "PLAN", 6, 1, right=True, sort="id"),
        Column("purpose", "PURPOSE", 10, 1, sort="purpose"),
        Column("subject", "CLUSTER", 10, 3, 1, sort="subject"),
        Column("state", "STATE", 14, 1, sort="state"),
        Column("progress", "MOVED", BAR_CELLS + 10, 1),
        Column("devices", "DEVICES", 8, 2, right=True, sort="devices"),
        Column("failed", "FAILED", 7, 3, right=True, sort="failed"),
        Column("by", "BY", 14, 4, 2, sort="by"),
        Column("created", "MADE", 16, 5, sort="created"),
    )

    def key_of(self, row: PlanRow) -> str:
        return str(row.id)

    def name_of(self, row: PlanRow) -> str:
        return f"plan {row.id}"

    def place_of(self, row: PlanRow) -> tuple[str | None, str]:
        return None, f"rebalance:{row.id}"

    def cells_of(self, row: PlanRow) -> dict[str, Text]:
        cell = self.pen.cell
        wanted = row.steps - row.left_out
        return {
            "id": cell(row.id),
            "purpose": cell(row.purpose),
            "subject": cell(row.subject or "-", "muted"),
            "state": self.pen.state(STATES.get(row.state, "unknown"), row.state.replace("_", " ")),
            "progress": cell(self.pen.bar(row.done, wanted, BAR_CELLS) + f" {row.done}/{wanted}"),
            "devices": cell(count_text(row.devices)),
            "failed": cell(row.failed, "failed" if row.failed else "muted"),
            "by": cell(row.created_by, "muted"),
            "created": cell(date_text(row.created), "muted"),
        }

    def detail_of(self, row: PlanRow, width: int) -> tuple[str, list[Text]]:
        pen = self.pen
        facts = [box_line(pen, "made", f"{self.ago(row.created)} ago by {row.created_by}: {row.why or '-'}")]
        if row.approved_by:
            facts.append(box_line(pen, "approved by", row.approved_by))
        if row.connected_before is not None:
            back = "?" if row.connected_after is None else count_text(row.connected_after)
            facts.append(
                box_line(pen, "back", f"{back} of {count_text(row.connected_before)} devices connected")
            )
        if row.first is not None:
            facts.append(box_line(pen, "progress", progress_words(row, self.now)))
        lines = side_by_side(facts, width)
        lines += side_by_side(load_parts(pen, row), width)
        if row.online is not None:
            lines += side_by_side([pen.cell(line) for line in safety_lines(pen, row)], width)
        if row.error:
            lines.append(pen.state("failed", row.error))
        lines += [pen.state("attention", note) for note in row.notes]
        return f"plan {row.id}  {row.purpose} {row.subject}", lines

    def plan_of(self, row: PlanRow) -> tuple[int, int, list[str]]:
        loads = [part.plain for part in load_parts(self.pen, row)]
        words = f"{row.purpose} {row.subject}  {plural(row.steps, 'tenant')}  {plural(row.devices, 'device')}"
        return row.id, row.version, [words, *safety_lines(self.pen, row), *row.notes, *loads]

    def warning_of(self, row: PlanRow) -> str:
        return f"The plan has {plural(len(row.notes), 'warning')}." if row.notes else ""

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        self.console.go_to("moves", render((Condition("plan", "=", (str(row.id),)),)))


class MovesScreen(_PlanActions[MoveRow]):
    """One row for each tenant of a plan."""

    NAME = "moves"
    HELP = (
        "The moves of a plan, one tenant each, in the order of its waves. Before the plan is approved "
        "single moves can be left out."
    )
    NOUN = "move"
    SORT = "id"
    BINDINGS: ClassVar[list[BindingType]] = bindings_of("moves")
    COLUMNS: ClassVar[Sequence[Column]] = (
        Column("plan", "PLAN", 6, 2, right=True, sort="plan"),
        Column("id", "STEP", 5, 3, right=True, sort="id"),
        Column("tenant", "TENANT", 16, 1, 3, sort="tenant"),
        Column("devices", "DEVICES", 8, 1, right=True, sort="devices"),
        Column("source", "FROM", 10, 1, 1, sort="source"),
        Column("target", "TO", 10, 1, 1, sort="target"),
        Column("state", "STATE", 11, 1, sort="state"),
        Column("back", "BACK", 11, 2, right=True),
        Column("ended", "AT", 16, 5, sort="ended"),
        Column("error", "WHY", 12, 4, 3),
    )

    def key_of(self, row: MoveRow) -> str:
        return str(row.id)

    def name_of(self, row: MoveRow) -> str:
        return row.tenant

    def place_of(self, row: MoveRow) -> tuple[str | None, str]:
        return None, f"tenant:{row.tenant_id}"

    def cells_of(self, row: MoveRow) -> dict[str, Text]:
        cell = self.pen.cell
        return {
            "plan": cell(row.plan, "muted"),
            "id": cell(row.step, "muted"),
            "tenant": cell(row.tenant),
            "devices": cell(count_text(row.devices)),
            "source": cell(row.source),
            "target": cell(row.target),
            "state": self.pen.state(MOVE_STATES.get(row.state, "unknown"), row.state),
            "back": cell(_back(row)),
            "ended": cell(date_text(row.ended) if row.ended is not None else "-", "muted"),
            "error": cell(row.error, "failed"),
        }

    def detail_of(self, row: MoveRow, width: int) -> tuple[str, list[Text]]:
        pen = self.pen
        facts = [
            box_line(pen, "plan", f"{row.plan} is {row.plan_state.replace('_', ' ')}"),
            box_line(pen, "move", f"{row.source} {'>' if pen.ascii else '→'} {row.target}"),
            box_line(pen, "counts for", plural(row.devices, "device")),
            box_line(pen, "connected after/before", _back(row)),
        ]
        lines = side_by_side(facts, width)
        if row.error:
            lines.append(pen.state("failed", row.error))
        return f"{row.tenant}  tenant {row.tenant_id}", lines

    async def do_plan_step(self) -> None:
        row = self.chosen(BY_ID["plan.step"])[0]
        skip = row.state != "skipped"
        if row.plan_state != "proposed":
            self.console.say(f"plan {row.plan} is {row.plan_state}: its steps stand", "warning")
            return
        args = {"plan": row.plan, "step": row.step, "skip": skip, "version": row.plan_version}
        self.console.confirm(
            BY_ID["plan.step"],
            f"{'Leave out' if skip else 'Take in'} step {row.step} of plan {row.plan}",
            [f"{row.tenant}  {row.source} -> {row.target}  {plural(row.devices, 'device')}"],
            "The rest of the plan is checked anew. Nobody moves before it is approved. Undone by space.",
            [
                Ask(
                    *("", None, "plan_step", args, f"rebalance:{row.plan}"),
                    f"{'skip' if skip else 'unskip'} step {row.step} of plan {row.plan}",
                )
            ],
        )

    def plan_of(self, row: MoveRow) -> tuple[int, int, list[str]]:
        return row.plan, row.plan_version, [f"plan {row.plan}  {row.plan_state}"]

    def warning_of(self, row: MoveRow) -> str:
        return f"The plan has {plural(row.plan_notes, 'warning')}." if row.plan_notes else ""

    async def do_row_open(self) -> None:
        row = self.current
        assert row is not None
        self.console.go_to("tenants", render((Condition("name", "=", (row.tenant,)),)))


def _back(row: MoveRow) -> str:
    if row.connected_before is None:
        return "-"
    return f"{'?' if row.connected_after is None else row.connected_after}/{row.connected_before}"
