"""`hs-node db`, `hs-node config`."""

from __future__ import annotations

import click

from app.commands import config_option, load_all, load_settings, output_option, run
from node import shell_check
from node.cli_options import Verbs


@click.group(cls=Verbs)
def db() -> None:
    """The database."""


@db.command("init")
@click.option("--print-sql", is_flag=True, help="Only print what a database administrator has to run.")
@config_option
def db_init(print_sql: bool, config: str | None) -> None:
    """Create roles and schema, or print the SQL."""
    if print_sql:
        click.echo(shell_check.setup_sql())
        return
    run(shell_check.init_database(load_settings(config)))


@db.command("check")
@config_option
@output_option
def db_check(config: str | None, output: str) -> None:
    """Look at the database without changing it."""
    run(shell_check.check_database(load_settings(config), output))


@click.command()
@config_option
@output_option
def health(config: str | None, output: str) -> None:
    """Ask the running server of these settings how it is."""
    from node.shell_health import ask_health  # httpx would slow every other command down

    run(ask_health(load_settings(config), output))


@click.group("config", cls=Verbs)
def configuration() -> None:
    """The settings."""


@configuration.command("check")
@config_option
@output_option
def config_check(config: str | None, output: str) -> None:
    """Settings in force and where each is from; then tries keys, database and ports."""
    run(shell_check.check_configuration(load_all(config), output))


configuration.also(check="test")
