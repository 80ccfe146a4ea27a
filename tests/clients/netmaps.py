"""The netmap that a client holds, as its own debug page shows it (control to node, /debug/netmap)."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

TCP = 6
#: What a rule without protocols holds for (PROTOCOL.md 6.1).
USUAL_PROTOCOLS = (6, 17, 1, 58)


@dataclass(frozen=True, slots=True)
class ClientNetmap:
    raw: dict[str, Any]

    @property
    def peers(self) -> dict[str, dict[str, Any]]:
        """By the first label of their names."""
        return {peer["Name"].partition(".")[0]: peer for peer in self.raw["Peers"] or []}

    @property
    def tags(self) -> list[str]:
        return self.raw["SelfNode"].get("Tags") or []

    @property
    def ssh_rules(self) -> list[dict[str, Any]]:
        return (self.raw.get("SSHPolicy") or {}).get("rules") or []

    def routes_of(self, peer: str) -> set[str]:
        """What a peer carries for this device beside its own addresses."""
        found = self.peers[peer]
        return set(found["AllowedIPs"]) - set(found["Addresses"])

    def primary_routes_of(self, peer: str) -> set[str]:
        return set(self.peers[peer].get("PrimaryRoutes") or ())

    def admits(self, source: str, destination: str, port: int, protocol: int = TCP) -> bool:
        """Whether the device's packet filter lets a connection in."""
        return any(
            protocol in (rule.get("IPProto") or USUAL_PROTOCOLS)
            and any(_covers(form, source) for form in rule["SrcIPs"])
            and any(
                target["Ports"]["First"] <= port <= target["Ports"]["Last"]
                and _covers(target["IP"], destination)
                for target in rule.get("DstPorts") or ()
            )
            for rule in self.raw.get("PacketFilterRules") or ()
        )


def _covers(form: str, address: str) -> bool:
    """One of the forms of addresses in a filter rule."""
    if form == "*":
        return True
    value = ip_address(address)
    first, dash, last = form.partition("-")
    if dash:
        low, high = ip_address(first), ip_address(last)
        return value.version == low.version and int(low) <= int(value) <= int(high)
    network = ip_network(form, strict=False)
    return value.version == network.version and value in network
