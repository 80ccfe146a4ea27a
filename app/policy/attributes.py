"""Node attributes: capabilities a device finds in its own record. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from app.policy.aliases import Kind
from app.policy.document import Policy
from app.policy.selectors import Selectors

#: What every device gets (policy-corpus, "nodeAttrs"; tailscale tailcfg/tailcfg.go NodeCapability).
BASELINE: dict[str, Any] = {
    "https://tailscale.com/cap/file-sharing": None,
    "https://tailscale.com/cap/ssh": None,
}
RANDOMIZE_CLIENT_PORT = "randomize-client-port"
DISABLE_V4 = "disable-ipv4"
#: On peers that are exit nodes (policy-corpus, "Peers").
SUGGEST_EXIT_NODE = "suggest-exit-node"


class Attributes:
    """The `nodeAttrs` of one policy."""

    def __init__(self, policy: Policy, *, auto_update: bool) -> None:
        self._rules = policy.node_attrs
        self._everybody: dict[str, Any] = BASELINE | {"default-auto-update": [auto_update]}
        if policy.randomize_client_port:
            self._everybody[RANDOMIZE_CLIENT_PORT] = None
        self._names: dict[tuple[int, int], frozenset[str]] = {}

    def _of(self, identity: int, literals: int, selectors: Selectors) -> frozenset[str]:
        key = (identity, literals)
        names = self._names.get(key)
        if names is None:
            found: set[str] = set()
            for rule in self._rules:
                if (
                    any(target.kind is Kind.ANY for target in rule.targets)
                    or identity & selectors.mask(rule.targets)
                    or literals & selectors.literal_mask(selectors.spans(rule.targets))
                ):
                    found.update(rule.attributes)
            names = self._names[key] = frozenset(found)
        return names

    def disables_v4(self, identity: int, literals: int, selectors: Selectors) -> bool:
        """Whether the device has no IPv4 address as far as anybody is told."""
        return bool(self._rules) and DISABLE_V4 in self._of(identity, literals, selectors)

    def self_caps(self, identity: int, literals: int, selectors: Selectors) -> bytes:
        """The CapMap of the device's own record, as JSON with sorted names."""
        caps = self._everybody | dict.fromkeys(self._of(identity, literals, selectors))
        return orjson.dumps(caps, option=orjson.OPT_SORT_KEYS)
