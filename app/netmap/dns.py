"""Settings -> tailcfg.DNSConfig. Pure. (PROTOCOL.md 7; tailscale tailcfg.go DNSConfig.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class DnsPlan:
    """What an operator configured. `base_domain` has no trailing dot."""

    base_domain: str
    magic_dns: bool = True
    override_local_dns: bool = False
    nameservers: tuple[str, ...] = ()
    search_domains: tuple[str, ...] = ()


def suffix(plan: DnsPlan, dns_label: str) -> str:
    """The domain a tenant's devices live under, without trailing dot."""
    return f"{dns_label}.{plan.base_domain}" if dns_label else plan.base_domain


def dns_config(plan: DnsPlan, dns_label: str) -> bytes:
    """The tailcfg.DNSConfig of one tenant, as JSON.

    Neither the suffix nor the reverse zones are listed in Routes: with Proxied the client routes
    them to itself (tailscale ipn/ipnlocal/node_backend.go dnsConfigForNetmap).
    """
    resolvers = [{"Addr": address} for address in plan.nameservers]
    config: dict[str, Any] = {"Proxied": plan.magic_dns}
    domains = [suffix(plan, dns_label)] if plan.magic_dns else []
    config["Domains"] = domains + [d for d in plan.search_domains if d not in domains]
    if resolvers:
        config["Resolvers" if plan.override_local_dns else "FallbackResolvers"] = resolvers
    return orjson.dumps(config)
