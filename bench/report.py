"""Figures and tables, on the terminal and in bench/RESULTS.md."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "RESULTS.md"
INTRO = """# Figures

Made by `python -m bench --write`, never by hand. Median [min..max] of repeated runs. Server figures are CPU
seconds of the `hs-node serve` process alone (its relay process and PostgreSQL are separate processes); the
load runs on the same cores, so latencies and rates are what this machine gives while it also plays
all devices. Budgets: DESIGN section 10. "Naive" is said under each table, on the same data in the same
run; a ratio above 1 means that ours is cheaper.
"""
NAIVE_NOTE = (
    "Naive: the same server with a naive netmap (bench/naive_server.py): per viewer it finds the peers pair "
    "by pair, encodes with json.dumps and a new zstd context; everything else is the product's."
)


@dataclass(frozen=True, slots=True)
class Figure:
    """Repeated measurements of one thing."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        return cls(statistics.median(values), min(values), max(values))

    def times(self, factor: float) -> Figure:
        return Figure(self.median * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        if self.low == self.high:
            return number(self.median)
        return f"{number(self.median)} [{number(self.low)}..{number(self.high)}]"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table. `budget` is an upper bound in the row's unit."""

    what: str
    unit: str
    ours: Figure
    budget: float | None = None
    naive: Figure | None = None

    def cells(self) -> list[str]:
        budget = ratio = ""
        if self.budget is not None:
            verdict = "ok" if self.ours.median <= self.budget else "OVER"
            budget = f"<= {number(self.budget)} {verdict}"
        if self.naive is not None and self.ours.median:
            ratio = number(self.naive.median / self.ours.median) + "x"
        return [
            self.what,
            self.unit,
            str(self.ours),
            budget,
            "" if self.naive is None else str(self.naive),
            ratio,
        ]


@dataclass(slots=True)
class Table:
    """What one scenario found."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    naive_label: str = "naive"

    def add(
        self,
        what: str,
        unit: str,
        values: Sequence[float],
        *,
        budget: float | None = None,
        naive: Sequence[float] | None = None,
    ) -> None:
        self.rows.append(
            Row(what, unit, Figure.of(values), budget, None if naive is None else Figure.of(naive))
        )

    def beside(self, label: str) -> None:
        """Name what the ratios are against, and explain it."""
        self.naive_label = label
        self.notes.append(NAIVE_NOTE if label == "naive" else "Theirs: the server given by --server.")

    def grid(self) -> list[list[str]]:
        heads = ["what", "unit", "ours", "budget", self.naive_label, "ratio"]
        cells = [row.cells() for row in self.rows]
        used = [at for at in range(len(heads)) if at < 3 or any(line[at] for line in cells)]
        return [[line[at] for at in used] for line in [heads, *cells]]

    def text(self) -> str:
        """For a terminal."""
        grid = self.grid()
        widths = [max(len(line[at]) for line in grid) for at in range(len(grid[0]))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in grid
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([f"== {self.name}: {self.title}", *lines, *(f"  * {note}" for note in self.notes)])

    def markdown(self, run: str) -> str:
        """A section of RESULTS.md."""
        grid = self.grid()
        lines = ["| " + " | ".join(line) + " |" for line in grid]
        lines.insert(1, "|" + "---|" * len(grid[0]))
        notes = ["", *(f"* {note}" for note in self.notes)] if self.notes else []
        return "\n".join([f"## {self.name}: {self.title}", "", run, "", *lines, *notes, ""])


def number(value: float) -> str:
    """Three significant digits, no exponent."""
    if value == 0:
        return "0"
    digits = max(0, 2 - int(f"{abs(value):e}".split("e")[1]))
    return f"{value:,.{digits}f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by this share of all."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run_line(postgres: str) -> str:
    """When and on what: belongs to every section, sections may be from different runs."""
    load = os.getloadavg()[0]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}, {_cpu_model()}, {os.cpu_count()} "
        f"cores, Python {platform.python_version()}, PostgreSQL {postgres}, load average before {load:.1f}."
    )


def _cpu_model() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    match = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine()


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout.strip()

    dirty = git("status", "--porcelain", "--untracked-files=no", ":!bench/RESULTS.md")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if dirty else "")


def write(sections: dict[str, str], order: Sequence[str]) -> None:
    """Replace these sections of RESULTS.md, keep the others."""
    known: dict[str, str] = {}
    if RESULTS.exists():
        for part in RESULTS.read_text().split("\n## ")[1:]:
            known[part.partition(":")[0]] = "## " + part.rstrip("\n") + "\n"
    known |= sections
    texts = [known[name] for name in order if name in known]
    RESULTS.write_text("\n".join([INTRO, *texts]))
