"""What all `hs-node` commands share: groups with aliases, common options, settings, the question."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from app import log, settings_values
from app.settings import Loaded, Settings, load
from node.headscale_commands import INSTEAD

F = TypeVar("F", bound=Callable[..., Any])

PROGRAM = "hs-node"
TABLE = "table"
FORMATS = click.Choice([TABLE, "json", "json-line", "yaml"])
#: The database takes no older expiry; older is a client's or a person's zero time.
OLDEST_MOMENT_S = datetime(2000, 1, 2, tzinfo=UTC).timestamp()


class Verbs(click.Group):
    """A group whose commands have further names, such as headscale's; help shows them in brackets."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.aliases: dict[str, str] = {}

    def also(self, **names: str) -> None:
        """Further names of commands: `also(destroy="delete rm")`."""
        self.aliases |= {alias: name for name, text in names.items() for alias in text.split()}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            _, command, rest = super().resolve_command(ctx, args)
        except click.UsageError:
            # `hs-node nodes ...`: the words below the program's own name.
            words = [*ctx.command_path.split()[1:], args[0]]
            instead = INSTEAD.get(" ".join(words))
            if instead is None:
                raise
            raise click.UsageError(instead) from None
        return None if command is None else command.name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is None or command.hidden:
                continue
            others = [alias for alias, known in self.aliases.items() if known == name]
            rows.append((f"{name} ({', '.join(others)})" if others else name, command.get_short_help_str(80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _inherited(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Common options may stand before the command too, as with headscale."""
    if value:
        return value
    above = ctx.find_root().params.get(param.name or "")
    return above or (TABLE if param.name == "output" else value)


def _common(*names: str, **facts: Any) -> Callable[[F], F]:
    return click.option(*names, callback=_inherited, **facts)


config_option = _common("-c", "--config", "config", metavar="PATH", help="Configuration file.")
output_option = _common(
    "-o", "--output", "output", type=FORMATS, help="Form of the output.  [default: table]"
)
yes_option = _common("-y", "--yes", "--force", "yes", is_flag=True, help="Do not ask.")
tenant_option = click.option("--tenant", metavar="NAME", help="Tenant; default: the cluster's home tenant.")


def load_all(config: str | None) -> Loaded:
    """Settings and what was found out about them."""
    loaded = load(config, os.environ, Path.cwd())
    log.configure(loaded.settings.log.level, loaded.settings.log.format, loaded.settings.cluster_id)
    return loaded


def load_settings(config: str | None, *, warn: bool = False) -> Settings:
    """Settings; `warn` tells what an operator should know about them on stderr."""
    loaded = load_all(config)
    for warning in loaded.warnings if warn else ():
        click.echo(f"warning: {warning}", err=True)
    return loaded.settings


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def chosen(what: str, *given: str | int | None) -> str:
    """The one thing a command is about, given as argument or as headscale's option."""
    found = [str(value) for value in given if value is not None]
    if len(found) != 1:
        raise click.UsageError(f"name one {what}, as argument or with -i")
    return found[0]


def life(text: str, option: str) -> float:
    """Seconds of `30m`, `24h`, `7d`; 0 is for ever."""
    try:
        return float(settings_values.parse_duration(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def moment(text: str, option: str) -> float:
    """Epoch of `2030-01-31T12:00:00Z` (UTC where no zone is given), or of a time from now such as `24h`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return time.time() + life(text, option)
    epoch = (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    if epoch < OLDEST_MOMENT_S:
        raise click.BadParameter("times start with the year 2000", param_hint=option)
    return epoch


def tag_list(given: tuple[str, ...]) -> tuple[str, ...]:
    """Tags of options that may be repeated and may hold several, with commas."""
    return tuple(tag.strip() for text in given for tag in text.split(",") if tag.strip())
