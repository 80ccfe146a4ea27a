"""A policy looked at before it is sent: its tests, warnings, and whom it would let in or shut out. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from rich.text import Text

from app.policy.advice import Advice, warnings_of
from app.policy.check import accept
from app.policy.hujson import PolicyError
from app.policy.impact import Impact, impact
from app.policy.snapshot import Snapshot
from app.policy.testing import run_tests
from app.policy.words import LINES, impact_lines
from console.cells import Pen, plural

#: Lines of the difference between two texts that a dialog shows.
DIFF_LINES = 200


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is known of a policy that may be used. `tests`: how many it has; `failing`: of the first that
    fails, where and why."""

    tests: int
    failing: str
    warnings: tuple[Advice, ...]
    impact: Impact
    users: int
    devices: int


def judge(text: str, snapshot: Snapshot) -> Judgement:
    """Raises PolicyError, with the line, for what cannot be read or means what is not there."""
    users, devices = snapshot.users, snapshot.devices
    policy, failing = accept(text, users, devices, tests=False), ""
    try:
        run_tests(policy, users, devices)
    except PolicyError as error:
        failing = error.message
    return Judgement(
        len(policy.tests) + len(policy.ssh_tests),
        failing,
        warnings_of(policy, users, devices),
        impact(snapshot.policy, policy, users, devices),
        len(users),
        len(devices),
    )


def judgement_lines(pen: Pen, found: Judgement) -> list[Text]:
    """Tests, warnings and impact, as the dialog shows them before anything is sent."""
    if found.failing:
        tests = pen.state("failed", found.failing)
    elif found.tests:
        tests = pen.state("ok", f"{plural(found.tests, 'test')} of it passed")
    else:
        tests = pen.state("off", "it has no tests of its own")
    lines = [tests, *(pen.state("attention", f"warning: {one}") for one in found.warnings[:LINES])]
    if len(found.warnings) > LINES:
        lines.append(pen.cell(f"and {plural(len(found.warnings) - LINES, 'warning')} more"))
    lines += [pen.cell(line, "strong") for line in impact_lines(found.impact)]
    basis = f"{plural(found.devices, 'device')} and {plural(found.users, 'user')}"
    return [*lines, pen.cell(f"worked out from {basis} as stored now", "muted")]


def difference_lines(pen: Pen, old: str, new: str) -> list[Text]:
    """Lines that come and go."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
    changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    shown = [pen.cell(line.expandtabs(4), "change") for line in changed[:DIFF_LINES]]
    if len(changed) > DIFF_LINES:
        shown.append(pen.cell(f"and {len(changed) - DIFF_LINES:,} more lines"))
    return shown
