"""`hs-acs tenants`, `clusters`, `plans`, `placement`, `join`: over the API."""

from __future__ import annotations

import click

from app.commands import Verbs, config_option, load_settings, output_option, run
from app.output import confirm

label_option = click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="Repeatable.")


def pairs(given: tuple[str, ...]) -> dict[str, str]:
    """`a=b` texts as pairs."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--label")
        found[name] = value
    return found


@click.group(cls=Verbs)
def tenants() -> None:
    """Tenants: customers, one tailnet each."""


tenants.also(list="ls", show="get", create="new add", delete="rm")


@tenants.command("create")
@click.argument("name")
@click.option("--plan", help="Whose limits it gets.")
@click.option("--region", default="", help="The cluster must be there.")
@click.option("--cluster", help="This cluster and no other.")
@click.option("--dedicated", is_flag=True, help="A cluster for itself.")
@label_option
@config_option
@output_option
def create(
    name: str,
    plan: str | None,
    region: str,
    cluster: str | None,
    dedicated: bool,
    labels: tuple[str, ...],
    config: str | None,
    output: str,
) -> None:
    """Place a tenant, or find it where it is."""
    from acs import shell_tenants

    asked = shell_tenants.wish(name, plan, region, cluster, dedicated, pairs(labels))
    run(shell_tenants.create(load_settings(config), asked, output))


@tenants.command("list")
@click.option("--cluster", help="Of one cluster only.")
@click.option("--deleted", is_flag=True, help="Those too that can still be restored.")
@config_option
@output_option
def list_(cluster: str | None, deleted: bool, config: str | None, output: str) -> None:
    """All tenants."""
    from acs import shell_tenants

    run(shell_tenants.list_all(load_settings(config), cluster, deleted, output))


@tenants.command("show")
@click.argument("tenant")
@config_option
@output_option
def show_(tenant: str, config: str | None, output: str) -> None:
    """A tenant, by name or id."""
    from acs import shell_tenants

    run(shell_tenants.show_one(load_settings(config), tenant, output))


@tenants.command("change")
@click.argument("tenant")
@click.option("--name", help="Another name.")
@click.option("--plan", help="Another plan and its limits; '' takes it away.")
@click.option("--max-devices", type=int, help="-1 = no limit.")
@click.option("--max-users", type=int, help="-1 = no limit.")
@click.option("--max-keys", type=int, help="-1 = no limit.")
@click.option("--max-routes", type=int, help="Approved routes of all its devices; -1 = no limit.")
@click.option("--max-requests", type=int, help="Requests of its devices a minute; -1 = no limit.")
@config_option
@output_option
def change(tenant: str, config: str | None, output: str, **given: str | int | None) -> None:
    """Change a tenant's name, plan or limits."""
    from acs import shell_tenants

    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        raise click.UsageError("say what to change")
    run(shell_tenants.change(load_settings(config), tenant, wanted, output))


def _verb(verb: str, text: str, question: str = "") -> None:
    @tenants.command(verb, help=text)
    @click.argument("tenant")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @config_option
    @output_option
    def command(tenant: str, yes: bool, config: str | None, output: str) -> None:
        from acs import shell_tenants

        if question:
            confirm(question.format(tenant), yes)
        run(shell_tenants.do(load_settings(config), tenant, verb, output))


_verb("suspend", "Let nobody in any more.", "Suspend tenant {}?")
_verb("resume", "Let devices in again.")
_verb("delete", "Delete a tenant; it can be restored for a while.", "Delete tenant {}?")
_verb("restore", "Undo a deletion.")


@click.group(cls=Verbs)
def clusters() -> None:
    """Clusters: where tenants live."""


clusters.also(list="ls")


@clusters.command("list")
@config_option
@output_option
def list_clusters(config: str | None, output: str) -> None:
    """All clusters and what is on them."""
    from acs import shell_tenants

    run(shell_tenants.list_clusters(load_settings(config), output))


@clusters.command("admit")
@click.argument("cluster")
@config_option
@output_option
def admit(cluster: str, config: str | None, output: str) -> None:
    """Let a cluster take tenants."""
    from acs import shell_tenants

    run(shell_tenants.cluster_verb(load_settings(config), cluster, "admit", output))


@clusters.command("drain")
@click.argument("cluster")
@click.option("--move", "moves", is_flag=True, help="Move those there to other clusters, too.")
@config_option
@output_option
def drain(cluster: str, moves: bool, config: str | None, output: str) -> None:
    """Give a cluster no more tenants; those there stay, unless --move."""
    from acs import shell_rebalance, shell_tenants

    settings = load_settings(config)
    run(shell_tenants.cluster_verb(settings, cluster, "drain", output))
    if moves:
        run(shell_rebalance.propose(settings, cluster, "drain", True, output))


@clusters.command("undrain")
@click.argument("cluster")
@config_option
@output_option
def undrain(cluster: str, config: str | None, output: str) -> None:
    """Let a cluster take tenants again."""
    from acs import shell_tenants

    run(shell_tenants.cluster_verb(load_settings(config), cluster, "admit", output))


@clusters.command("describe")
@click.argument("cluster")
@click.option("--region", help="Where it is.")
@click.option("--weight", type=float, help="How much it takes beside others.")
@click.option("--max-tenants", type=int, help="At most so many.")
@click.option("--max-devices", type=int, help="Reserved, at most.")
@label_option
@config_option
@output_option
def describe(
    cluster: str, labels: tuple[str, ...], config: str | None, output: str, **given: str | float | None
) -> None:
    """Say what a cluster is and how much it holds."""
    from acs import shell_tenants

    wanted: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if labels:
        wanted["labels"] = pairs(labels)
    run(shell_tenants.describe(load_settings(config), cluster, wanted, output))


@click.group(cls=Verbs)
def plans() -> None:
    """Plans: limits that tenants share."""


plans.also(list="ls", put="create set")


@plans.command("list")
@config_option
@output_option
def list_plans(config: str | None, output: str) -> None:
    """All plans."""
    from acs import shell_tenants

    run(shell_tenants.list_plans(load_settings(config), output))


@plans.command("put")
@click.argument("name")
@click.option("--max-devices", type=int)
@click.option("--max-users", type=int)
@click.option("--max-keys", type=int)
@click.option("--max-routes", type=int, help="Approved routes of all devices of a tenant.")
@click.option("--max-requests", type=int, help="Map requests and registrations of its devices a minute.")
@config_option
@output_option
def put(name: str, config: str | None, output: str, **limits: int | None) -> None:
    """Make or change a plan, and the limits of its tenants."""
    from acs import shell_tenants

    run(shell_tenants.put_plan(load_settings(config), name, limits, output))


@click.group(cls=Verbs)
def placement() -> None:
    """Where tenants go, and why."""


@placement.command("explain")
@click.argument("tenant")
@click.option("--region", default="", help="As `tenants create` takes it.")
@click.option("--cluster")
@click.option("--dedicated", is_flag=True)
@label_option
@config_option
@output_option
def explain(
    tenant: str,
    region: str,
    cluster: str | None,
    dedicated: bool,
    labels: tuple[str, ...],
    config: str | None,
    output: str,
) -> None:
    """Where a tenant would go now, and why not elsewhere."""
    from acs import shell_tenants

    asked = shell_tenants.wish(tenant, None, region, cluster, dedicated, pairs(labels))
    run(shell_tenants.explain(load_settings(config), asked, output))


@click.command("join")
@click.argument("tenant", required=False)
@click.option("--token", "join_token", help="A join token, in place of the tenant's name.")
@click.option("--user", help="Whose the device is.")
@click.option("--reusable", is_flag=True)
@click.option("--ephemeral", is_flag=True)
@config_option
@output_option
def join(
    tenant: str | None,
    join_token: str | None,
    user: str | None,
    reusable: bool,
    ephemeral: bool,
    config: str | None,
    output: str,
) -> None:
    """Print the command with which a device joins its tailnet."""
    from acs import shell_tenants

    if (tenant is None) == (join_token is None):
        raise click.UsageError("name a tenant, or give --token")
    asked = {
        "tenant": tenant,
        "token": join_token,
        "user": user,
        "reusable": reusable,
        "ephemeral": ephemeral,
    }
    run(shell_tenants.join(load_settings(config), asked, output))
