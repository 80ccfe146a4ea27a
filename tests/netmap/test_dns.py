"""Settings -> tailcfg.DNSConfig, as a table."""

from __future__ import annotations

import json

import pytest

from app.netmap.dns import DnsPlan, dns_config, suffix


@pytest.mark.parametrize(
    ("plan", "label", "expected"),
    [
        (DnsPlan("hs.internal"), "", {"Proxied": True, "Domains": ["hs.internal"]}),
        (DnsPlan("hs.internal"), "acme", {"Proxied": True, "Domains": ["acme.hs.internal"]}),
        (DnsPlan("hs.internal", magic_dns=False), "", {"Proxied": False, "Domains": []}),
        (
            DnsPlan("x.y", nameservers=("1.1.1.1", "https://dns.nextdns.io/abc"), override_local_dns=True),
            "",
            {
                "Proxied": True,
                "Domains": ["x.y"],
                "Resolvers": [{"Addr": "1.1.1.1"}, {"Addr": "https://dns.nextdns.io/abc"}],
            },
        ),
        (
            DnsPlan("x.y", nameservers=("1.1.1.1",)),
            "",
            {"Proxied": True, "Domains": ["x.y"], "FallbackResolvers": [{"Addr": "1.1.1.1"}]},
        ),
        (
            DnsPlan("x.y", search_domains=("corp.example", "x.y")),
            "",
            {"Proxied": True, "Domains": ["x.y", "corp.example"]},
        ),
        (
            DnsPlan("x.y", magic_dns=False, search_domains=("corp.example",)),
            "acme",
            {"Proxied": False, "Domains": ["corp.example"]},
        ),
    ],
    ids=["default", "tenant", "off", "override", "fallback", "search", "search only"],
)
def test_dns_config(plan, label, expected):
    assert json.loads(dns_config(plan, label)) == expected


def test_the_suffix_carries_the_tenant_where_it_has_a_label():
    assert suffix(DnsPlan("hs.internal"), "") == "hs.internal"
    assert suffix(DnsPlan("hs.internal"), "acme") == "acme.hs.internal"
