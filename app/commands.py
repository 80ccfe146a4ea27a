"""What all our commands share: groups with aliases, common options, settings, and errors as sentences."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import get_completion_class

from app import log, settings_values
from app.errors import HsError
from app.settings import Loaded, Settings, load

F = TypeVar("F", bound=Callable[..., Any])

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
        # The name of the command itself, also when an alias was given.
        _, command, rest = super().resolve_command(ctx, args)
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


def load_all(config: str | None) -> Loaded:
    """Settings and what was found out about them."""
    loaded = load(config, os.environ, Path.cwd())
    log.configure(loaded.settings.log.level, loaded.settings.log.format, loaded.settings.cluster_id)
    return loaded


def load_settings(config: str | None, *, warn: bool = False, unused: tuple[str, ...] = ()) -> Settings:
    """Settings; `warn` tells what an operator should know about them on stderr, but for keys that begin
    with one of the `unused`."""
    loaded = load_all(config)
    for warning in loaded.warnings if warn else ():
        if not warning.startswith(unused):
            click.echo(f"warning: {warning}", err=True)
    return loaded.settings


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


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


def program_name(program: str) -> str:
    """How a person in this directory calls this command."""
    path = Path(sys.argv[0]).absolute()
    if shutil.which(path.name) == str(path) or not os.access(path, os.X_OK):
        return program
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def sentence(error: click.ClickException) -> str:
    """One line: what is wrong with the command, and where its help is."""
    text = " ".join(error.format_message().split())
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return text if ctx is None else f"{text.rstrip('.')}; see {ctx.command_path} --help"


def run_program(command: click.Command, program: str) -> None:
    """Runs a command line; the one place where an error becomes a sentence and an exit code."""
    try:
        command(standalone_mode=False, prog_name=program, complete_var=completion_variable(program))
    except HsError as error:
        # Names in it may be a stranger's.
        lines = [line if line.isprintable() else log.escape(line) for line in error.message.splitlines()]
        click.echo("error: " + "\n".join(lines), err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("aborted", err=True)
        sys.exit(1)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"error: {sentence(error)}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)


def completion_variable(program: str) -> str:
    return f"_{program.upper().replace('-', '_')}_COMPLETE"


def completion_command(root: click.Group, program: str) -> click.Command:
    """`completion bash`: prints a shell's completion of a program."""

    @click.command("completion", help=f"Print a shell's completion: `source <({program} completion bash)`.")
    @click.argument("kind", metavar="[bash|zsh|fish]", type=click.Choice(["bash", "zsh", "fish"]))
    def completion(kind: str) -> None:
        found = get_completion_class(kind)
        assert found is not None
        click.echo(found(root, {}, program, completion_variable(program)).source())

    return completion
