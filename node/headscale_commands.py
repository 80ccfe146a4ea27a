"""headscale's commands that are none of ours, and what its users do instead. Pure."""

from __future__ import annotations

_ROUTES = "subnet routes and exit nodes are not built yet"
_REST = "API keys belong to the REST API, which is not built yet; this shell needs none"
_POLICY = "access policies are not built yet: every device of a tenant sees every other"

#: By the words after the program's name.
INSTEAD = {
    "apikeys": _REST,
    "apikey": _REST,
    "api": _REST,
    "oauth-clients": _REST,
    "policy": _POLICY,
    "acl": _POLICY,
    "routes": _ROUTES,
    "route": _ROUTES,
    "nodes list-routes": _ROUTES,
    "nodes approve-routes": _ROUTES,
    "nodes register": "a device that waits is let in by: hs-node auth approve ID --user USER",
    "nodes backfillips": "not needed: every device has an IPv4 and an IPv6 address from the start",
    "debug": "there is no such command here; `hs-node auth list` shows the devices that wait",
    "generate": "not needed: the first `hs-node serve` makes all keys",
    "dumpConfig": "the settings in force are shown by: hs-node config check",
    "mockoidc": "OIDC is not built yet",
}
