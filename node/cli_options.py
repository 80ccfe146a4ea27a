"""What `hs-node` commands share besides app.commands: headscale's commands, the tenant, lists in options."""

from __future__ import annotations

import click

from app import commands
from node.headscale_commands import INSTEAD

PROGRAM = "hs-node"

tenant_option = click.option("--tenant", metavar="NAME", help="Tenant; default: the cluster's home tenant.")


class Verbs(commands.Verbs):
    """Verbs that know what users of headscale do instead of its commands that are none of ours."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            # `hs-node nodes ...`: the words below the program's own name.
            words = [*ctx.command_path.split()[1:], args[0]]
            instead = INSTEAD.get(" ".join(words))
            if instead is None:
                raise
            raise click.UsageError(instead) from None


def chosen(what: str, *given: str | int | None) -> str:
    """The one thing a command is about, given as argument or as headscale's option."""
    found = [str(value) for value in given if value is not None]
    if len(found) != 1:
        raise click.UsageError(f"name one {what}, as argument or with -i")
    return found[0]


def tag_list(given: tuple[str, ...]) -> tuple[str, ...]:
    """Tags of options that may be repeated and may hold several, with commas."""
    return tuple(tag.strip() for text in given for tag in text.split(",") if tag.strip())
