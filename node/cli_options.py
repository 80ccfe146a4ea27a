"""Options that many `hs-node` commands share."""

from __future__ import annotations

import click

FORMATS = click.Choice(["table", "json", "yaml"])
config_option = click.option("-c", "--config", "config", metavar="PATH", help="Configuration file.")
tenant_option = click.option("--tenant", metavar="NAME", help="Tenant; default: the cluster's home tenant.")
output_option = click.option("-o", "--output", type=FORMATS, default="table", show_default=True)
