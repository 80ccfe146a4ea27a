"""Pictures of every screen, from the running demo: `make docs`.

Starts what `make demo` starts, lets some things happen, and takes a picture of each screen of the registry
and of what opens over them. docs/console/README.md is written with them.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from app.api.records import RebalanceAsked
from app.database import database_dsn
from console import export
from console.action import shown
from console.actions import BY_ID, SCREENS, footer_of
from console.main import ConsoleApp
from console.store import PgStore
from deploy.demo.__main__ import CLUSTERS, Deployment, deployment, directory
from deploy.demo.acs import CUSTOMERS, move_somebody
from deploy.demo.fleet import happen, meet
from deploy.demo.progress import Progress
from tests.console.support import until

HERE = Path(__file__).parent
SIZE, SMALL = (120, 36), (80, 24)
HAPPEN_S, EVENT_S = 3.0, 0.05
#: All pictures together.
MAX_BYTES = 2_500_000

#: What opens over a list: its picture, the list, the keys, what it is for. "=text" is typed as it is, "#id"
#: is clicked.
OVERLAYS = (
    ("record", "devices", ("enter",), "One object in full", "All that the list has no room for."),
    ("peers", "devices", ("i",), "A device as its owner has it", "Whom it sees, its rules, its map."),
    (
        "reach",
        "devices",
        ("w", "tab", "=10.20.0.9:631", "#submit"),
        "Why somebody cannot reach something",
        "Here a router waits for an approval.",
    ),
    (
        "allowed",
        "devices",
        ("w", "tab", "=acme-server:443", "#submit"),
        "Who can reach what",
        "The rule that lets it, and who they are to the policy.",
    ),
    ("policy", "policy", ("enter",), "A policy in force", "Every version is kept, with its author and note."),
    (
        "judged",
        "policy",
        ("G", "B"),
        "A policy before it is sent",
        "Its tests, its warnings, whom it lets in or shuts out, and each line that changes.",
    ),
    (
        "failing",
        "policy",
        ("E", "down", "down", "end", *("left",) * 2, '=, "carol@"', "#submit"),
        "A policy that fails its own tests",
        "Here a group gets one member too many. What was typed is not lost.",
    ),
    (
        "palette",
        "devices",
        ("ctrl+p",),
        "All commands by name",
        "Type a part of a name, or an action's words.",
    ),
    (
        "help",
        "devices",
        ("question_mark",),
        "Help beside the work",
        "All keys of a screen from the registry, and why one cannot be used now.",
    ),
    ("confirm", "devices", ("x",), "Before something changes", "What is touched, and how to take it back."),
    (
        "danger",
        "devices",
        ("space", "space", "D"),
        "Before it cannot be undone",
        "How many, and what to type.",
    ),
    (
        "form",
        "devices",
        ("r",),
        "Something to fill in",
        "Checked while it is typed; kept when it is refused.",
    ),
)


async def pictures(progress: Progress) -> None:
    with directory() as place:
        async with deployment(place, progress) as made, AsyncExitStack() as stack:
            dsn = await stack.enter_async_context(database_dsn(made.servers[0].settings))
            await events(made)
            for old in (*HERE.glob("*.svg"), *HERE.glob("*.txt")):
                old.unlink()
            for screen in SCREENS:
                for size in (SIZE, SMALL) if screen in ("overview", "devices") else (SIZE,):
                    app = ConsoleApp(PgStore(dsn, read_only=True), actor="console:ops", start=screen)
                    keep(picture_of(screen, size), await export.picture(app, size))
                    progress.say(f"{screen} {size[0]}x{size[1]}")
            for name, screen, keys, *_ in OVERLAYS:
                await overlay(dsn, name, screen, keys)
                progress.say(name)
            progress.say("stopping devices, clusters and database")


async def events(made: Deployment) -> None:
    """Devices leave and move, a customer moves, and there is a plan to approve."""
    await happen(made.fleet, EVENT_S, HAPPEN_S)
    await move_somebody(made.api, CLUSTERS)
    await meet(made.fleet)
    somebody = await made.api.tenant(list(CUSTOMERS)[1])
    await made.api.propose_rebalance(RebalanceAsked(purpose="evacuate", cluster=somebody.cluster, why="demo"))


async def overlay(dsn: str, name: str, screen: str, keys: tuple[str, ...]) -> None:
    app = ConsoleApp(PgStore(dsn), actor="console:ops", start=screen)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await app.rows_shown()
        await until(pilot, lambda: app.link.is_up)
        for key in keys:
            if key.startswith("#"):
                await pilot.click(key)
            else:
                await pilot.press(*(key[1:] if key.startswith("=") else (key,)))
        # A dialog, the help beside the list, or a word.
        await until(pilot, lambda: app.screen is not app.base or app.helping or app.said)
        await pilot.pause(0.5)
        keep(f"over-{name}", app.export_screenshot())


def picture_of(screen: str, size: tuple[int, int]) -> str:
    return f"{screen}-{size[0]}x{size[1]}"


def keep(stem: str, svg: str) -> None:
    lines = [line.rstrip() for line in svg.splitlines()]
    (HERE / f"{stem}.svg").write_text("\n".join(lines) + "\n", encoding="utf-8")


def page() -> str:
    """README.md of the pictures: for each what it answers, and its keys."""
    lines = [
        "# The console in pictures",
        "",
        "Made by `make docs` from the running demo (`make demo`), never by hand. The registry of actions"
        " (`console/actions.py`) decides which screens and keys there are."
        " [Three stories](../STORIES.md) tell how an operator works with them.",
        "",
    ]
    for screen in SCREENS:
        about = BY_ID.get(f"screen.{screen}")
        key = shown(about.key) if about else f":{screen}"
        purpose = (ConsoleApp.MODES[screen].__doc__ or "").strip().splitlines()[0]
        offered = [f"`{shown(a.key)}` {a.label}" for a in footer_of(screen)]
        lines += [f"## {screen.title()} (`{key}`)", "", *([about.help] if about else []), purpose, ""]
        lines += [f"Keys: {', '.join(offered)}.", ""] if offered else []
        lines += [f"![{screen}]({picture_of(screen, SIZE)}.svg)", ""]
        if screen == "overview" or screen == "devices":
            lines += [
                "The same in a small terminal:",
                "",
                f"![{screen}]({picture_of(screen, SMALL)}.svg)",
                "",
            ]
    for name, screen, keys, title, about_it in OVERLAYS:
        pressed = [f"`{key.removeprefix('=')}`" for key in keys if not key.startswith("#")]
        lines += [f"## {title}", "", f"On {screen}: {' '.join(pressed)}.", about_it, ""]
        lines += [f"![{name}](over-{name}.svg)", ""]
    return "\n".join(lines)


def main() -> None:
    asyncio.run(pictures(Progress()))
    (HERE / "README.md").write_text(page(), encoding="utf-8")
    total = sum(path.stat().st_size for path in HERE.glob("*.svg"))
    if total > MAX_BYTES:
        raise SystemExit(f"the pictures are {total:,} bytes, more than {MAX_BYTES:,}")


if __name__ == "__main__":
    main()
