"""Which subnet routes of a router each viewer is shown. Pure.

Those it is the primary of for this viewer, if a rule lets the viewer reach the route or the route reach
the viewer, or the viewer announces it too (policy-corpus, "Peers" and "HA").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from app.model import DeviceId
from app.policy.addresses import prefix
from app.policy.aliases import Alias, Kind
from app.policy.classes import DeviceClass
from app.policy.routes import Primaries
from app.policy.selectors import Selectors
from app.policy.states import RuleState


class ShownRoutes:
    """The routes of one engine. What only depends on class and route is remembered in the class."""

    def __init__(
        self,
        states: Sequence[RuleState],
        selectors: Selectors,
        primaries: Primaries,
        identity_of: Callable[[DeviceId], int],
    ) -> None:
        self._states = states
        self._selectors = selectors
        self._primaries = primaries
        self._identity_of = identity_of

    def of(self, viewer: DeviceClass, device_id: DeviceId, subnets: Iterable[str]) -> tuple[str, ...]:
        """Those of a router's subnet routes that devices of a class have in its AllowedIPs."""
        return tuple(
            route
            for route in subnets
            if self._shows(viewer, route) and self._primary(viewer, route) == device_id
        )

    def _shows(self, viewer: DeviceClass, route: str) -> bool:
        known = viewer.shows.get(route)
        if known is None:
            known = viewer.shows[route] = route in viewer.shape.subnets or self._concerns(viewer, route)
        return known

    def _concerns(self, viewer: DeviceClass, route: str) -> bool:
        span = prefix(route)
        for state in self._states:
            if state.rule.via:
                continue
            if state.source_bits & viewer.bit and state.leads_to(span):
                return True
            if state.target_bits & viewer.bit and state.comes_from(span):
                return True
        return self._steered(viewer, route) is not None

    def _steered(self, viewer: DeviceClass, route: str) -> tuple[str, ...] | None:
        """The via tags a viewer must use for a route; None where no via rule concerns it."""
        if route not in viewer.steered:
            span, tags = prefix(route), []
            for state in self._states:
                if state.rule.via and state.source_bits & viewer.bit and state.leads_to(span):
                    tags += [tag for tag in state.rule.via if tag not in tags]
            viewer.steered[route] = tuple(tags) or None
        return viewer.steered[route]

    def _primary(self, viewer: DeviceClass, route: str) -> DeviceId | None:
        tags = self._steered(viewer, route)
        if tags is None or route in viewer.shape.subnets:
            return self._primaries.of(route)
        mask = self._selectors.mask(Alias(Kind.TAG, tag) for tag in tags)
        return self._primaries.among(route, lambda device_id: bool(self._identity_of(device_id) & mask))
