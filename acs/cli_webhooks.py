"""`hs-acs webhooks`: who is told of tenants, quotas, clusters and plans. Over the API."""

from __future__ import annotations

import click

from app.commands import Verbs, config_option, load_settings, output_option, run
from app.output import confirm


@click.group(cls=Verbs)
def webhooks() -> None:
    """Webhooks: who is told of tenants, quotas, clusters and plans."""


webhooks.also(list="ls", delete="rm")


@webhooks.command("create")
@click.argument("url")
@click.option("--event", "events", multiple=True, metavar="EVENT", help="Such as tenant.create; repeatable.")
@config_option
@output_option
def create(url: str, events: tuple[str, ...], config: str | None, output: str) -> None:
    """Print the key with which deliveries to URL are signed; it is shown this once."""
    from acs import shell_webhooks

    run(shell_webhooks.create(load_settings(config), url, events, output))


@webhooks.command("list")
@config_option
@output_option
def list_(config: str | None, output: str) -> None:
    """All webhooks, and how much waits for each."""
    from acs import shell_webhooks

    run(shell_webhooks.list_all(load_settings(config), output))


@webhooks.command("delete")
@click.argument("webhook", type=click.IntRange(min=1))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@config_option
def delete(webhook: int, yes: bool, config: str | None) -> None:
    """Tell somebody no more; what waits is dropped."""
    from acs import shell_webhooks

    confirm(f"Delete webhook {webhook}?", yes)
    run(shell_webhooks.delete(load_settings(config), webhook))


@webhooks.command("deliveries")
@click.option(
    "--state", type=click.Choice(("waiting", "delivered", "dead")), default="dead", show_default=True
)
@config_option
@output_option
def deliveries(state: str, config: str | None, output: str) -> None:
    """What was given up, or waits, or was delivered."""
    from acs import shell_webhooks

    run(shell_webhooks.deliveries(load_settings(config), state, output))


@webhooks.command("retry")
@click.argument("delivery", type=click.IntRange(min=1))
@config_option
def retry(delivery: int, config: str | None) -> None:
    """Send a delivery that was given up again."""
    from acs import shell_webhooks

    run(shell_webhooks.retry(load_settings(config), delivery))
