"""Pictures of every screen from a fleet that really joined, as SVG and as text: `make docs`.

Starts a throwaway database and control server, lets simulated devices join, takes the pictures, stops all.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from app.pg import EmbeddedPostgres
from console import export, query
from console.dialogs import LostDialog
from console.main import ConsoleApp
from console.store import PgStore
from tests.console.support import until
from tests.node.kit import DatabaseGate
from tests.node.support import ServeProcess, admin, device, fresh_database, join

HERE = Path(__file__).parent
SIZES = ((200, 50), (120, 36), (80, 24))
DEVICES = 24
KINDS = ("build-runner", "laptop", "kiosk")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hs-docs-") as name:
        place = Path(name)
        place.chmod(0o711)
        server = EmbeddedPostgres(place / "pg", durable=False)
        try:
            asyncio.run(pictures(server.acquire()))
        finally:
            server.release()


async def pictures(pg_dsn: str) -> None:
    async with (
        fresh_database(pg_dsn) as dsn,
        ServeProcess(dsn, "eu-1") as serve,
        AsyncExitStack() as fleet,
    ):
        async with admin(dsn, "eu-1") as shell:
            key = await shell.auth_key(reusable=True)
        for number in range(DEVICES):
            one = device(serve.url, key, hostname=f"{KINDS[number % len(KINDS)]}-{number:02}")
            await join(await fleet.enter_async_context(one), poll=number % 5 > 0)
        await dialogs(dsn)
        for screen in query.SCREENS:
            for size in SIZES:
                svg = await export.picture(
                    ConsoleApp(PgStore(dsn, read_only=True), actor="console:ops", start=screen), size
                )
                stem = HERE / f"{screen}-{size[0]}x{size[1]}"
                stem.with_suffix(".svg").write_text(svg, encoding="utf-8")
                stem.with_suffix(".txt").write_text(export.text_of(svg) + "\n", encoding="utf-8")


def keep(stem: str, app: ConsoleApp) -> None:
    svg = app.export_screenshot()
    (HERE / f"{stem}.svg").write_text(svg, encoding="utf-8")
    (HERE / f"{stem}.txt").write_text(export.text_of(svg) + "\n", encoding="utf-8")


async def dialogs(dsn: str) -> None:
    """What opens over a list, at 80x24: a confirmation, a form, the help, and a database that is lost."""
    async with DatabaseGate(dsn) as gate:
        app = ConsoleApp(PgStore(gate.dsn), actor="console:ops", start="devices")
        async with app.run_test(size=(80, 24)) as pilot:
            await app.rows_shown()
            await until(pilot, lambda: app.link.is_up)
            for stem, keys in (
                ("delete", ("space", "space", "D")),
                ("rename", ("r",)),
                ("help", ("question_mark",)),
            ):
                await pilot.press(*keys)
                await until(pilot, lambda: app.screen is not app.base)
                await pilot.pause()
                keep(f"dialog-{stem}-80x24", app)
                await pilot.press("escape")
                await until(pilot, lambda: app.screen is app.base)
            await gate.refuse()
            await until(pilot, lambda: isinstance(app.screen, LostDialog))
            await pilot.pause()
            keep("dialog-lost-80x24", app)


if __name__ == "__main__":
    main()
