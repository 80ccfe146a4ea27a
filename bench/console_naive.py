"""The console as it would be with whole tables instead of windows: `python -m bench.console_naive`."""

from __future__ import annotations

import dataclasses

from app.fleet import DeviceRow, Page, View
from console import cli
from console.store import PgStore

ALL_ROWS = 1_000_000


class WholeTables(PgStore):
    """Every read of devices brings all that match."""

    async def devices(self, view: View) -> Page[DeviceRow]:
        return await super().devices(dataclasses.replace(view, limit=ALL_ROWS))


def main() -> None:
    cli.PgStore = WholeTables  # type: ignore[attr-defined]
    cli.main()


if __name__ == "__main__":
    main()
