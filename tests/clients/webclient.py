"""Tailscale's own web client of one device, driven by another: it changes what a tsnet device cannot be told.

tailscale v1.90.9 client/web: web.go servePostRoutes, auth.go getSession. Who drives it must be the same
user's device, or have been granted tailscale.com/cap/webui on a tagged one.
"""

from __future__ import annotations

import json
from typing import Any

from tests.clients.caddy import WEB_CLIENT_PORT, CaddyNode


class WebClient:
    """A session at the web client of the device with this address."""

    def __init__(self, driver: CaddyNode, address: str) -> None:
        self._driver = driver
        self._where = f"{address}:{WEB_CLIENT_PORT}"
        answer = driver.fetch(self._where, path="/api/auth/session/new")
        assert answer.status == 200, answer
        self._cookie = answer.headers["set-cookie"].partition(";")[0]

    def announce(self, *routes: str) -> None:
        """The subnet routes that the device offers from now on; exit routes stay as they are."""
        self._post(SetRoutes=True, AdvertiseRoutes=list(routes))

    def announce_exit(self, offered: bool = True) -> None:
        """Whether the device offers to be an exit node; subnet routes stay as they are."""
        self._post(SetExitNode=True, AdvertiseExitNode=offered)

    def use_exit(self, stable_id: str) -> None:
        """Send all traffic for the internet by way of a peer; "" for none."""
        self._post(SetExitNode=True, UseExitNode=stable_id)

    def _post(self, **body: Any) -> None:
        answer = self._driver.fetch(
            self._where,
            path="/api/routes",
            method="POST",
            headers={"Cookie": self._cookie, "Sec-Fetch-Site": "same-origin"},
            body=json.dumps(body),
        )
        assert answer.status == 200, answer
