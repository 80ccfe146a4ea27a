"""`hs-node rebuild`: netmaps of a scope made from scratch by the cluster's owner."""

from __future__ import annotations

import click

from app.commands import config_option, load_settings, output_option, run
from node import shell_rebuild
from node.cli_options import tenant_option


@click.command()
@click.argument("kind", metavar="device|user|tag|tenant|cluster", type=click.Choice(shell_rebuild.KINDS))
@click.argument("name", required=False)
@tenant_option
@click.option("--wait", "deadline_s", metavar="SECONDS", type=float, default=120.0, show_default=True)
@config_option
@output_option
def rebuild(
    kind: str, name: str | None, tenant: str | None, deadline_s: float, config: str | None, output: str
) -> None:
    """Read a device, user, tag, tenant or the whole cluster again, and send its netmaps whole.

    NAME is a device or user (name or id) or a tag. The cluster's owner carries it out; the answer says
    how many devices, maps and bytes it took.
    """
    run(shell_rebuild.rebuild(load_settings(config), tenant, kind, name, deadline_s, output))
