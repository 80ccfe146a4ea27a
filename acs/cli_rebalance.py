"""`hs-acs move`, `rebalance`: tenants move from cluster to cluster. Over the API."""

from __future__ import annotations

import click

from app.commands import Verbs, config_option, load_settings, output_option, run
from app.output import confirm


@click.command("move")
@click.argument("tenant")
@click.option("--to", "target", required=True, metavar="CLUSTER")
@click.option("--why", default="", help="For the audit log.")
@config_option
@output_option
def move(tenant: str, target: str, why: str, config: str | None, output: str) -> None:
    """Move one tenant, by name or id, at once; its devices notice nothing."""
    from acs import shell_rebalance

    run(shell_rebalance.move(load_settings(config), tenant, target, why, output))


@click.group(cls=Verbs)
def rebalance() -> None:
    """Plans for moving tenants: proposed, approved, carried out in waves, undone."""


rebalance.also(list="ls", show="get")


@rebalance.command("propose")
@click.option("--drain", "drained", metavar="CLUSTER", help="Empty this one instead.")
@click.option("--why", default="", help="For the audit log.")
@click.option("--approve", is_flag=True, help="Carry it out at once.")
@config_option
@output_option
def propose(drained: str | None, why: str, approve: bool, config: str | None, output: str) -> None:
    """Show who would move where, and keep it as a plan; nobody moves yet."""
    from acs import shell_rebalance

    run(shell_rebalance.propose(load_settings(config), drained, why, approve, output))


@rebalance.command("list")
@config_option
@output_option
def list_(config: str | None, output: str) -> None:
    """All plans, the newest first."""
    from acs import shell_rebalance

    run(shell_rebalance.list_all(load_settings(config), output))


@rebalance.command("show")
@click.argument("plan", type=click.IntRange(min=1))
@config_option
@output_option
def show_(plan: int, config: str | None, output: str) -> None:
    """A plan with its dry run and its steps."""
    from acs import shell_rebalance

    run(shell_rebalance.show_one(load_settings(config), plan, output))


def _verb(verb: str, text: str, question: str = "") -> None:
    @rebalance.command(verb, help=text)
    @click.argument("plan", type=click.IntRange(min=1))
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @click.option(
        "--wait", "wait_s", type=click.IntRange(0, 86400), default=0, help="Until it has come to rest."
    )
    @config_option
    @output_option
    def command(plan: int, yes: bool, wait_s: int, config: str | None, output: str) -> None:
        from acs import shell_rebalance

        if question:
            confirm(question.format(plan), yes)
        run(shell_rebalance.do(load_settings(config), plan, verb, wait_s, output))


_verb("approve", "Carry a plan out.", "Carry plan {} out?")
_verb("pause", "Hold a plan up after the wave under way.")
_verb("resume", "Go on with a plan that was held up.")
_verb("stop", "End a plan where it is.")
_verb("rollback", "Undo what a plan has done, last first.", "Undo plan {}?")
