"""Routes: who may announce them without approval, and who carries one that several announce. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from app.model import DeviceId, UserId
from app.policy.addresses import EXIT_ROUTES, prefix
from app.policy.aliases import Alias, Kind
from app.policy.document import Policy
from app.policy.people import Directory


def auto_approved(
    policy: Policy,
    directory: Directory,
    user_id: UserId | None,
    tags: tuple[str, ...],
    announced: Iterable[str],
) -> tuple[str, ...]:
    """Those of a device's announced routes that need nobody's approval, sorted.

    A subnet route inside a listed prefix; exit routes only by `exitNode`, whatever `routes` says
    (policy-corpus, "Approval").
    """

    def is_one_of(approvers: tuple[Alias, ...]) -> bool:
        for alias in approvers:
            if alias.kind is Kind.TAG:
                if alias.name in tags:
                    return True
            elif not tags and user_id in (directory.users_of(alias) or ()):
                return True
        return False

    may_exit = is_one_of(policy.exit_approvers)
    spans = [rule.span for rule in policy.route_approvers if is_one_of(rule.approvers)]
    approved = []
    for route in announced:
        if route in EXIT_ROUTES:
            ok = may_exit
        else:
            low, high = prefix(route)
            ok = any(first <= low and high <= last for first, last in spans)
        if ok:
            approved.append(route)
    return tuple(sorted(approved))


class Primaries:
    """Which of several routers carries a route: one that is online, and the same as long as it is.

    The first election goes to the device with the lowest id (policy-corpus, "HA").
    """

    def __init__(self) -> None:
        self._routes: dict[str, dict[DeviceId, bool]] = {}
        self._primary: dict[str, DeviceId] = {}
        self._of_device: dict[DeviceId, tuple[tuple[str, ...], bool]] = {}

    def put(self, device_id: DeviceId, subnets: tuple[str, ...], online: bool) -> bool:
        """A router's approved routes and presence; returns whether any primary or order changed."""
        known = self._of_device.get(device_id)
        if known == (subnets, online) or (known is None and not subnets):
            return False
        old = known[0] if known else ()
        if subnets:
            self._of_device[device_id] = (subnets, online)
        else:
            self._of_device.pop(device_id, None)
        for route in set(old) - set(subnets):
            self._drop(device_id, route)
        for route in subnets:
            self._routes.setdefault(route, {})[device_id] = online
        changed = False
        for route in {*old, *subnets}:
            # Among several, a change of presence can move who carries it for somebody.
            shared = len(self._routes.get(route, ())) > 1
            changed = self._elect(route) or shared or changed
        return changed

    def remove(self, device_id: DeviceId) -> bool:
        return self.put(device_id, (), False)

    def _drop(self, device_id: DeviceId, route: str) -> None:
        candidates = self._routes[route]
        del candidates[device_id]
        if not candidates:
            del self._routes[route]

    def _elect(self, route: str) -> bool:
        candidates = self._routes.get(route, {})
        current = self._primary.get(route)
        if not candidates:
            return self._primary.pop(route, None) is not None
        if current in candidates and (candidates[current] or not any(candidates.values())):
            return False
        self._primary[route] = min(candidates, key=lambda i: (not candidates[i], i))
        return True

    def of(self, route: str) -> DeviceId | None:
        """The device that carries a route, None when nobody announces it."""
        return self._primary.get(route)

    def among(self, route: str, may: Callable[[DeviceId], bool]) -> DeviceId | None:
        """The same among some of the routers only: the primary if it is one of them."""
        candidates = {i: online for i, online in self._routes.get(route, {}).items() if may(i)}
        if not candidates:
            return None
        current = self._primary.get(route)
        if current is not None and candidates.get(current):
            return current
        return min(candidates, key=lambda i: (not candidates[i], i))

    def candidates(self, route: str) -> dict[DeviceId, bool]:
        """Every device that announces a route with approval, and whether it is online."""
        return dict(self._routes.get(route, {}))
