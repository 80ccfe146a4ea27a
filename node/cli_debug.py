"""`hs-node debug`: what a device holds, against what it should."""

from __future__ import annotations

import click

from app.commands import config_option, load_settings, output_option, run
from node.cli_options import Verbs, tenant_option


@click.group(cls=Verbs)
def debug() -> None:
    """Look closely at one device, through the server on this machine."""


@debug.command("device")
@click.argument("device")
@click.option(
    "--ask/--no-ask", default=True, help="Ask the device's client what it holds (Go clients answer)."
)
@tenant_option
@config_option
@output_option
def debug_device(device: str, ask: bool, tenant: str | None, config: str | None, output: str) -> None:
    """Its poll, what it was told last, what it would get now, and where its client differs."""
    # The other commands need no HTTP client.
    from node import shell_debug

    run(shell_debug.debug_device(load_settings(config), tenant, device, ask, output))
