"""headscale's commands that are none of ours, and what its users do instead. Pure."""

from __future__ import annotations

_REST = "API keys belong to the REST API, which is not built yet; this shell needs none"

#: By the words after the program's name.
INSTEAD = {
    "apikeys": _REST,
    "apikey": _REST,
    "api": _REST,
    "oauth-clients": _REST,
    "nodes list-routes": "routes are listed by: hs-node routes list",
    "nodes approve-routes": "routes are approved by: hs-node routes approve DEVICE ROUTE...",
    "nodes register": "a device that waits is let in by: hs-node auth approve ID --user USER",
    "nodes backfillips": "not needed: every device has an IPv4 and an IPv6 address from the start",
    "generate": "not needed: the first `hs-node serve` makes all keys",
    "dumpConfig": "the settings in force are shown by: hs-node config check",
    "mockoidc": "OIDC is not built yet",
}
