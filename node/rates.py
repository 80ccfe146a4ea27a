"""How often the devices of a tenant may ask for something: so many requests a minute, by its limits."""

from __future__ import annotations

from collections.abc import Callable

from app.buckets import Buckets
from app.model import Tenant, TenantId

#: (code, sentence) for who asks too often.
CODE = "quota_requests"


class TenantRates:
    """Counts registrations and map requests; a whole minute's worth may come at once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` in seconds, of any origin."""
        self._clock = clock
        self._buckets: dict[TenantId, tuple[int, Buckets]] = {}

    def wait_s(self, tenant: Tenant | None) -> float:
        """Counts a request; seconds until it may be made where there were too many, else 0."""
        if tenant is None or tenant.max_requests is None:
            if tenant is not None:
                self._buckets.pop(tenant.id, None)
            return 0.0
        limit, buckets = self._buckets.get(tenant.id, (0, None))
        if buckets is None or limit != tenant.max_requests:
            limit, buckets = tenant.max_requests, Buckets(tenant.max_requests)
            self._buckets[tenant.id] = limit, buckets
        now = self._clock()
        wait_s = buckets.wait_s(tenant.id, now)
        if wait_s == 0.0:
            buckets.take(tenant.id, now)
        return wait_s


def sentence(tenant: Tenant, wait_s: float) -> str:
    """For the person at the device."""
    return (
        f"this tailnet may make {tenant.max_requests} requests a minute and has made more:"
        f" it goes on in {wait_s:.0f} s; ask your administrator"
    )
