"""`hs-node simulate`: thousands of devices against any Tailscale control server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from app.commands import life, output_option

#: `app.simulation.scenario.KINDS`; not imported, so that other commands start fast.
CHURN = ("endpoints", "online", "join-leave", "storm")


@click.command()
@click.option("--server", "url", required=True, metavar="URL", help="Login URL of the server.")
@click.option("--auth-key", "auth_keys", multiple=True, metavar="KEY", help="Reusable; one for each tenant.")
@click.option(
    "--auth-key-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One key a line."
)
@click.option("--devices", type=click.IntRange(min=1), required=True, help="How many, in all tenants.")
@click.option("--tenants", type=click.IntRange(min=1), help="Use that many keys.  [default: all given]")
@click.option(
    "--full", type=click.IntRange(min=0), help="Devices that check all.  [default: 1 in 50, 20 at least]"
)
@click.option(
    "--join-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Joins per second.  [default: 64 at a time]",
)
@click.option(
    "--churn", "kinds", multiple=True, type=click.Choice(CHURN), help="What happens then; repeatable."
)
@click.option(
    "--churn-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Events per second of each kind.  [default: devices/50]",
)
@click.option("--storm-every", default="20s", show_default=True, help="All lose their connections.")
@click.option("--duration", default="30s", show_default=True, help="After all have joined; 0: until Ctrl-C.")
@click.option("--ephemeral", is_flag=True, help="Ask the server to forget them when they are gone.")
@click.option("--prefix", default="sim", show_default=True, help="Of their hostnames.")
@output_option
def simulate(
    url: str,
    auth_keys: tuple[str, ...],
    auth_key_file: Path | None,
    devices: int,
    tenants: int | None,
    full: int | None,
    join_rate: float | None,
    kinds: tuple[Any, ...],
    churn_rate: float | None,
    storm_every: str,
    duration: str,
    ephemeral: bool,
    prefix: str,
    output: str,
) -> None:
    """Let devices join a server, live there, and check and time what they receive.

    Exit code 1 when a device failed or the server broke a rule, 130 after Ctrl-C.
    """
    from app.runtime import require_open_files
    from app.simulation import scenario
    from node import simulate as doing

    require_open_files(devices)
    keys = [*auth_keys, *(_lines(auth_key_file) if auth_key_file else ())]
    if not keys:
        raise click.UsageError("give at least one --auth-key, or an --auth-key-file")
    plan = doing.Plan(
        specs=scenario.fleet(
            url, keys, devices, tenants=tenants, full=full, prefix=prefix, ephemeral=ephemeral
        ),
        join_rate=join_rate,
        kinds=tuple(dict.fromkeys(kinds)),
        churn_rate=churn_rate or max(1.0, devices / 50),
        storm_every_s=life(storm_every, "--storm-every"),
        duration_s=life(duration, "--duration") or None,
    )
    sys.exit(doing.run(plan, output))


def _lines(path: Path) -> list[str]:
    return [text for line in path.read_text().splitlines() if (text := line.strip()) and text[0] != "#"]
