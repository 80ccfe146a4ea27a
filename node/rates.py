"""How often the devices of a tenant may ask for something: so many requests a minute, by its limits."""

from __future__ import annotations

from collections.abc import Callable

from app.buckets import Buckets
from app.model import Tenant

#: Of a registration that is refused for it.
CODE = "quota_requests"


class TenantRates:
    """Counts registrations and map requests; a whole minute's worth may come at once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` in seconds, of any origin."""
        self._clock = clock
        self._buckets = Buckets()

    def wait_s(self, tenant: Tenant) -> float:
        """Counts a request; seconds until it may be made where there were too many, else 0."""
        if tenant.max_requests is None:
            return 0.0
        return self._buckets.try_take(tenant.id, tenant.max_requests, self._clock())


def sentence(tenant: Tenant, wait_s: float) -> str:
    """For the person at the device."""
    return (
        f"this tailnet may make {tenant.max_requests} requests a minute and has made more:"
        f" it goes on in {wait_s:.0f} s; ask your administrator"
    )
