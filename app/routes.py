"""Routes as texts: canonical prefixes, exit routes as a pair. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from typing import Literal

from app.errors import BadRequest
from app.policy.addresses import EXIT_ROUTES

#: A route of a device: announced but not approved, both, approved only, neither.
RouteState = Literal["waiting", "approved", "withdrawn", "gone"]

#: Routes that one device may announce or have approved.
MAX_ROUTES = 256


def check_routes(texts: Iterable[str]) -> tuple[str, ...]:
    """Routes as somebody wrote them: canonical, sorted, exit routes always both. Raises BadRequest."""
    routes: set[str] = set()
    for text in texts:
        try:
            net = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            raise BadRequest(f"{text!r} is no route such as 10.0.0.0/8", code="bad_route") from None
        if str(net.network_address) != str(ipaddress.ip_address(text.strip().partition("/")[0])):
            raise BadRequest(f"{text!r} has host bits set: write {net}", code="bad_route")
        routes.add(str(net))
    if not routes:
        raise BadRequest("at least one route is needed, such as 10.0.0.0/8", code="bad_route")
    if routes.intersection(EXIT_ROUTES):
        routes.update(EXIT_ROUTES)
    if len(routes) > MAX_ROUTES:
        raise BadRequest(f"more than {MAX_ROUTES} routes at once", code="too_many_routes")
    return tuple(sorted(routes))


def readable_routes(texts: Iterable[str]) -> tuple[str, ...]:
    """Those of some stored routes that are canonical prefixes, sorted: nobody else can use the others."""
    return tuple(sorted({text for text in texts if _is_canonical(text)}))


def check_stored_routes(routes: tuple[str, ...]) -> None:
    """Raises BadRequest unless these are canonical prefixes, sorted, each once."""
    if len(routes) > MAX_ROUTES:
        raise BadRequest(f"a device announces at most {MAX_ROUTES} routes", code="too_many_routes")
    if readable_routes(routes) != routes:
        raise BadRequest("routes are canonical prefixes in order, each once", code="bad_route")


def state_of(route: str, announced: Collection[str], approved: Collection[str]) -> RouteState:
    """How a route of a device stands."""
    if route in announced:
        return "approved" if route in approved else "waiting"
    return "withdrawn" if route in approved else "gone"


def _is_canonical(text: str) -> bool:
    try:
        return str(ipaddress.ip_network(text)) == text
    except ValueError:
        return False
