"""`hs-acs usage`, `prices`, `invoices`, `quota`: what tenants use and may use. Over the API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from acs.cli_tenants import pairs
from app.commands import Verbs, config_option, load_settings, output_option, run
from app.settings_values import parse_duration

UNITS = click.Choice(("hour", "day", "month"))
MOMENTS = click.DateTime(formats=("%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"))


@click.command("usage")
@click.argument("tenant", required=False)
@click.option("--since", type=MOMENTS, help="UTC.  [default: 31 days before the end]")
@click.option("--until", type=MOMENTS, help="UTC.  [default: now]")
@click.option("--by", type=UNITS, default="day", show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets and billing.")
@config_option
@output_option
def usage(
    tenant: str | None,
    since: datetime | None,
    until: datetime | None,
    by: str,
    as_csv: bool,
    config: str | None,
    output: str,
) -> None:
    """What tenants use, or one of them: devices, device-hours, map bytes, registrations."""
    from acs import shell_usage

    asked = {"since": _utc(since), "until": _utc(until), "by": by}
    run(shell_usage.usage(load_settings(config), tenant, asked, as_csv, output))


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else moment.replace(tzinfo=UTC).isoformat()


@click.group(cls=Verbs)
def prices() -> None:
    """Prices: what device-hours, map bytes and plans cost."""


prices.also(show="get", set="put")


@prices.command("show")
@config_option
@output_option
def show_prices(config: str | None, output: str) -> None:
    """The price list."""
    from acs import shell_usage

    run(shell_usage.prices(load_settings(config), output))


@prices.command("set")
@click.option("--currency", required=True, help="Three letters.")
@click.option("--device-hour", required=True, help="For an hour of a connected device.")
@click.option("--gigabyte", default="0", show_default=True, help="For 10^9 bytes of maps.")
@click.option("--plan-fee", "fees", multiple=True, metavar="PLAN=AMOUNT", help="Of a month; repeatable.")
@config_option
@output_option
def set_prices(
    currency: str, device_hour: str, gigabyte: str, fees: tuple[str, ...], config: str | None, output: str
) -> None:
    """Set the price list."""
    from acs import shell_usage

    asked = {
        "currency": currency,
        "device_hour": device_hour,
        "gigabyte": gigabyte,
        "plan_fees": pairs(fees),
    }
    run(shell_usage.set_prices(load_settings(config), asked, output))


@click.command("invoices")
@click.argument("month", metavar="YYYY-MM")
@click.option("--csv", "as_csv", is_flag=True, help="For spreadsheets and billing.")
@config_option
@output_option
def invoices(month: str, as_csv: bool, config: str | None, output: str) -> None:
    """The lines of a month's invoices, by the price list of now."""
    from acs import shell_usage

    run(shell_usage.invoices(load_settings(config), month, as_csv, output))


@click.group(cls=Verbs)
def quota() -> None:
    """Quotas: limits of tenants, and limits that are lifted for a while."""


quota.also(show="get")


@quota.command("show")
@click.argument("tenant")
@config_option
@output_option
def show_quota(tenant: str, config: str | None, output: str) -> None:
    """Limits of a tenant, and what is used of them."""
    from acs import shell_usage

    run(shell_usage.quota(load_settings(config), tenant, output))


@quota.command("override")
@click.argument("tenant")
@click.option("--for", "life", required=True, metavar="DURATION", help="How long, such as 12h or 7d.")
@click.option("--max-devices", type=int, help="-1 = no limit.")
@click.option("--max-users", type=int, help="-1 = no limit.")
@click.option("--max-keys", type=int, help="-1 = no limit.")
@click.option("--max-routes", type=int, help="-1 = no limit.")
@click.option("--max-requests", type=int, help="A minute; -1 = no limit.")
@config_option
@output_option
def override(tenant: str, life: str, config: str | None, output: str, **limits: int | None) -> None:
    """Other limits for a while; then those of before are in force again."""
    from acs import shell_usage

    wanted = {name: None if limit == -1 else limit for name, limit in limits.items() if limit is not None}
    if not wanted:
        raise click.UsageError("say which limit is another for a while")
    try:
        life_s = parse_duration(life)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--for") from error
    until = datetime.now(UTC) + timedelta(seconds=life_s)
    run(shell_usage.override(load_settings(config), tenant, wanted, until, output))


@quota.command("end-override")
@click.argument("tenant")
@config_option
@output_option
def end_override(tenant: str, config: str | None, output: str) -> None:
    """The limits of before, now."""
    from acs import shell_usage

    run(shell_usage.end_override(load_settings(config), tenant, output))
