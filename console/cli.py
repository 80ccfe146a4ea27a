"""The `hs-console` command: the console itself, and its pictures without a terminal."""

from __future__ import annotations

import asyncio
import gc
import getpass
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from app import __version__, log
from app.commands import completion_command, run_program
from app.db.requests import RequestDesk
from app.errors import ConfigError, Refused
from app.model import OperatorRequest
from app.pg import EmbeddedPostgres
from app.settings import Settings, load
from console import export, query, scripted, terminal
from console.actions import BY_ID
from console.conflict import differences
from console.keymap import keys_of
from console.main import ConsoleApp
from console.store import PgStore
from console.themes import choose_theme, read_themes

PROGRAM = "hs-console"
#: `do`: what was asked for was changed meanwhile, nothing was written.
CONFLICT_EXIT = 5

config_option = click.option("-c", "--config", "config", metavar="PATH", help="Configuration file.")
cluster_option = click.option("--cluster", "scope", metavar="ID", help="Show this cluster only.")
screen_argument = click.argument("screen", type=click.Choice(list(query.SCREENS)))


def load_settings(config: str | None) -> Settings:
    """The settings of hs-node: the console finds the same database."""
    settings = load(config, os.environ, Path.cwd()).settings
    log.configure("error", settings.log.format, settings.cluster_id)
    return settings


def keep_terminal_clean(settings: Settings) -> None:
    """While the screen is ours, a line of a log would tear it; what matters is said on the screen."""
    log.configure("error", settings.log.format, settings.cluster_id, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the life of the process


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[str]:
    """The configured database, or the embedded one while it is in use."""
    if settings.pg_dsn is not None:
        yield settings.pg_dsn
        return
    embedded = EmbeddedPostgres(settings.state_dir)
    dsn = await embedded.start()
    try:
        yield dsn
    finally:
        await embedded.stop()


def operator() -> str:
    return f"console:{getpass.getuser()}"


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM)
@config_option
@cluster_option
@click.option("--read-only", is_flag=True, help="Change nothing; the database refuses it too.")
@click.option("--tenant", metavar="NAME", help="Show what is this tenant's only, where lists know tenants.")
@click.option("--ascii", "ascii_only", is_flag=True, help="No signs beyond ASCII.")
@click.option("--theme", metavar="NAME", help="Default: console.theme of the settings, hs-safe.")
@click.option("--mouse", type=click.Choice(["on", "off"]), default="on", show_default=True)
@click.option("--no-live", is_flag=True, help="Hold the picture still until p or ^r.")
@click.option(
    "--screen", "start", type=click.Choice(list(query.SCREENS)), default="overview", show_default=True
)
@click.pass_context
def cli(
    context: click.Context,
    config: str | None,
    scope: str | None,
    read_only: bool,
    tenant: str | None,
    ascii_only: bool,
    theme: str | None,
    mouse: str,
    no_live: bool,
    start: str,
) -> None:
    """Operations console of a deployment: all clusters, live."""
    if context.invoked_subcommand is not None:
        return
    if not sys.stdout.isatty():
        raise ConfigError(
            "the console needs a terminal; without one: hs-console show SCREEN, hs-console shot SCREEN"
        )
    settings = load_settings(config)
    keys = keys_of(settings.console.keys)
    themes = read_themes(settings.console.themes)
    theme = choose_theme(theme or settings.console.theme, themes)

    async def run() -> None:
        async with database(settings) as dsn:
            store = PgStore(dsn, read_only=read_only)
            app = ConsoleApp(
                store,
                actor=operator(),
                scope=scope,
                start=start,
                ascii_only=ascii_only,
                editor=os.environ.get("EDITOR") or "vi",
                keys=keys,
                theme=theme,
                themes=themes,
                live=not no_live,
                tenant=tenant,
            )
            terminal.tend(app.exit)
            keep_terminal_clean(settings)
            # The libraries stay; looking through them for garbage again and again is a pause under the keys.
            gc.freeze()
            await app.run_async(mouse=mouse == "on")

    asyncio.run(run())


@cli.command()
@screen_argument
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--filter", "filter_text", default="", help="As after / in the console.")
@click.option("--limit", type=click.IntRange(1, 500), default=500, show_default=True)
@config_option
@cluster_option
def show(
    screen: str, output: str, filter_text: str, limit: int, config: str | None, scope: str | None
) -> None:
    """Print the rows of a screen."""
    try:
        conditions = query.parse(filter_text, query.SCREENS[screen])
    except query.QueryError as error:
        raise click.BadParameter(str(error), param_hint="--filter") from error
    settings = load_settings(config)

    async def run() -> tuple[Any, float]:
        async with database(settings) as dsn:
            store = PgStore(dsn, read_only=True)
            try:
                return await export.rows_of(store, screen, conditions, scope, limit)
            finally:
                store.close()

    rows, now = asyncio.run(run())
    if output == "json":
        click.echo(json.dumps(msgspec.to_builtins(list(rows)), indent=2))
    else:
        click.echo(export.table_text(screen, rows, now))


@cli.command()
@screen_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="File: .svg, else text. Default: text on stdout."
)
@click.option("--size", default="120x36", show_default=True, metavar="WxH")
@click.option("--filter", "filter_text", default="", help="As after / in the console.")
@click.option("--ascii", "ascii_only", is_flag=True, help="No signs beyond ASCII.")
@config_option
@cluster_option
def shot(
    screen: str,
    output: str | None,
    size: str,
    filter_text: str,
    ascii_only: bool,
    config: str | None,
    scope: str | None,
) -> None:
    """Take a picture of a screen."""
    width, _, height = size.partition("x")
    if not (width.isdigit() and height.isdigit() and 20 <= int(width) <= 500 and 5 <= int(height) <= 200):
        raise click.BadParameter("such as 120x36", param_hint="--size")
    settings = load_settings(config)

    async def run() -> str:
        async with database(settings) as dsn:
            app = ConsoleApp(
                PgStore(dsn, read_only=True),
                actor=operator(),
                scope=scope,
                start=screen,
                ascii_only=ascii_only,
            )
            return await export.picture(app, (int(width), int(height)), filter_text)

    svg = asyncio.run(run())
    if output is None:
        click.echo(export.text_of(svg))
    else:
        Path(output).write_text(
            svg if output.endswith(".svg") else export.text_of(svg) + "\n", encoding="utf-8"
        )


@cli.command("do", short_help="Carry an action out, as the screens do.")
@click.argument("action", type=click.Choice(scripted.ACTION_IDS), metavar="ACTION")
@click.argument("words", metavar="NAME=VALUE...", nargs=-1)
@click.option("--tenant", help="Whose, by name or id; not needed where there is one.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Tell how far it would reach, and ask for nothing.")
@click.option("--reason", default="", help="Why, for the audit log; some actions want one.")
@click.option("--wait", "wait_s", type=click.FloatRange(0, 3600), default=30.0, show_default=True)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@config_option
@cluster_option
def do(
    action: str,
    words: tuple[str, ...],
    tenant: str | None,
    yes: bool,
    dry_run: bool,
    reason: str,
    wait_s: float,
    output: str,
    config: str | None,
    scope: str | None,
) -> None:
    """Ask the cluster's owner, or hs-acs, for an action of the registry, and follow it to its outcome.

    Its row is in the audit log like that of a key press. VALUE may be JSON.
    """
    arguments = scripted.arguments_of(action, words)
    if reason:
        arguments["reason"] = reason
    asks_first = BY_ID[action].tier and not yes
    settings = load_settings(config)

    async def run() -> tuple[OperatorRequest | None, str, list[str]]:
        async with database(settings) as dsn:
            store = PgStore(dsn, read_only=True)
            try:
                ask = await scripted.asked_for(store, action, arguments, scope=scope, tenant=tenant)
                reach = await scripted.radius_of(store, ask) if asks_first or dry_run else []
            finally:
                store.close()
            if dry_run:
                return None, "", reach
            if asks_first:
                lines = [f"{BY_ID[action].help} {arguments}.", *reach, "Go on?"]
                click.confirm("\n".join(map(log.escape, lines)), abort=True, err=True)
            desk = await RequestDesk.open(dsn)
            try:
                return (
                    await scripted.carry_out(desk, ask, actor=operator(), wait_s=wait_s),
                    ask.secret,
                    reach,
                )
            finally:
                desk.terminate()

    request, secret, reach = asyncio.run(run())
    if request is None:
        click.echo(json.dumps({"touches": reach}) if output == "json" else "\n".join(map(log.escape, reach)))
        return
    told = {"request": request.id, "state": request.state, "result": request.result, "error": request.error}
    if secret and request.state == "done":
        told["secret"] = secret
    if output == "json":
        click.echo(json.dumps(told))
    else:
        click.echo(log.escape("  ".join(f"{name}: {value}" for name, value in told.items() if value)))
    if request.error is not None:
        changed = (request.result or {}).get("conflict")
        for line in differences(changed or {}):
            click.echo(log.escape(line), err=True)
        raise SystemExit(CONFLICT_EXIT if changed else Refused.exit_code)


cli.add_command(completion_command(cli, PROGRAM))


def main() -> None:
    """Entry point."""
    run_program(cli, PROGRAM)


if __name__ == "__main__":
    main()
