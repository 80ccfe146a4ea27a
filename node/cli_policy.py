"""`hs-node policy`. What it does is imported by each command: the others would start slower for it."""

from __future__ import annotations

import click

from app.commands import config_option, load_settings, output_option, run, yes_option
from node.cli_options import Verbs, chosen, tenant_option


@click.group(cls=Verbs)
def policy() -> None:
    """Who may reach, see and log in to whom: the policy of a tenant."""


file_argument = click.argument("file", required=False)
file_option = click.option("-f", "--file", "given", metavar="FILE", help="File of the policy; - is stdin.")
expect_option = click.option(
    "--expect-version",
    "expected",
    type=click.IntRange(min=0),
    help="Only if this version is in force; 0: only if there is none.",
)


@policy.command("get")
@click.option("--version", type=click.IntRange(min=1), help="An older version.")
@config_option
@tenant_option
@output_option
def policy_get(version: int | None, config: str | None, tenant: str | None, output: str) -> None:
    """Print the policy in force."""
    from node import shell_policy

    run(shell_policy.get_policy(load_settings(config), tenant, version, output))


@policy.command("set")
@file_argument
@file_option
@click.option("-n", "--note", default="", help="What it is for; shown in the history.")
@expect_option
@yes_option
@config_option
@tenant_option
@output_option
def policy_set(
    file: str | None,
    given: str | None,
    note: str,
    expected: int | None,
    yes: bool,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Judge a policy (FILE, or - for stdin), tell what it changes, ask, and put it into force."""
    from node import shell_policy

    name = chosen("file", file, given)
    settings = load_settings(config)
    run(shell_policy.set_policy(settings, tenant, name, note=note, expected=expected, yes=yes, output=output))


@policy.command("check")
@file_argument
@file_option
@config_option
@tenant_option
@output_option
def policy_check(
    file: str | None, given: str | None, config: str | None, tenant: str | None, output: str
) -> None:
    """Judge a policy and tell what it would change; nothing is written."""
    from node import shell_policy

    name = chosen("file", file, given)
    run(shell_policy.check_policy(load_settings(config), tenant, name, output))


@policy.command("history")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@config_option
@tenant_option
@output_option
def policy_history(limit: int, config: str | None, tenant: str | None, output: str) -> None:
    """List the versions, newest first."""
    from node import shell_policy

    run(shell_policy.show_history(load_settings(config), tenant, limit, output))


@policy.command("diff")
@click.argument("first", metavar="VERSION", type=click.IntRange(min=1))
@click.argument("second", metavar="[VERSION]", type=click.IntRange(min=1), required=False)
@config_option
@tenant_option
@output_option
def policy_diff(first: int, second: int | None, config: str | None, tenant: str | None, output: str) -> None:
    """What changed between two versions, or from one to the version in force."""
    from node import shell_policy

    run(shell_policy.show_diff(load_settings(config), tenant, first, second, output))


@policy.command("rollback")
@click.argument("version", type=click.IntRange(min=1))
@expect_option
@yes_option
@config_option
@tenant_option
@output_option
def policy_rollback(
    version: int,
    expected: int | None,
    yes: bool,
    config: str | None,
    tenant: str | None,
    output: str,
) -> None:
    """Put the text of an old version into force again, as a new version."""
    from node import shell_policy

    settings = load_settings(config)
    run(shell_policy.roll_back(settings, tenant, version, expected=expected, yes=yes, output=output))


proto_option = click.option("--proto", default="", help="tcp, udp, icmp, ... or a number.")


@policy.command("explain")
@click.argument("source")
@click.argument("target", metavar="TARGET[:PORT]")
@proto_option
@config_option
@tenant_option
@output_option
def policy_explain(
    source: str, target: str, proto: str, config: str | None, tenant: str | None, output: str
) -> None:
    """Whether SOURCE may reach TARGET, by which rule, or why not.

    Both may be a device, an address, a user, a group, a tag, an autogroup or a name of `hosts`.
    """
    from node import shell_explain

    run(shell_explain.explain_access(load_settings(config), tenant, source, target, proto, output))


@policy.command("who-can-reach")
@click.argument("target", metavar="TARGET[:PORT]")
@proto_option
@config_option
@tenant_option
@output_option
def policy_who(target: str, proto: str, config: str | None, tenant: str | None, output: str) -> None:
    """Everybody who may reach TARGET, by rule."""
    from node import shell_explain

    run(shell_explain.who_reaches(load_settings(config), tenant, target, proto, output))


policy.also(get="show", set="put", history="log versions", check="test", explain="why")
policy.also(**{"who-can-reach": "who"})
