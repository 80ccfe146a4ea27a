"""`hs-node clusters`: all clusters of the deployment."""

from __future__ import annotations

import click

from app.commands import config_option, load_settings, output_option, run
from node import shell_clusters
from node.cli_options import Verbs


@click.group(cls=Verbs)
def clusters() -> None:
    """Clusters that share this database."""


@clusters.command("list")
@config_option
@output_option
def clusters_list(config: str | None, output: str) -> None:
    """List clusters: who owns them, their devices, the age of the lease."""
    run(shell_clusters.list_clusters(load_settings(config), output))


@clusters.command("show")
@click.argument("cluster", required=False)
@config_option
@output_option
def clusters_show(cluster: str | None, config: str | None, output: str) -> None:
    """One cluster, by default the one of the settings, with its processes."""
    settings = load_settings(config)
    run(shell_clusters.show_cluster(settings, cluster or settings.cluster_id, output))


clusters.also(list="ls")
