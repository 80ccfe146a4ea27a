"""What tenants use: counted in memory, by the hour, and written in batches by the owner.

Connected devices are looked at every few seconds; a tenant's peak is the highest of these looks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from app import log
from app.billing import Usage
from app.errors import HsError
from app.model import TenantId

_log = log.get("usage")

SAMPLE_EVERY_S = 10.0
WRITE_EVERY_S = 60.0
#: A pause longer than this was a stop of the machine, not a connection of anybody.
MAX_SAMPLE_S = 60.0
#: Hours of tenants kept while the database is away; the oldest give way.
MAX_WAITING = 50_000
HOUR_S = 3600.0


@dataclass(slots=True)
class _Hour:
    registered: int = 0
    peak: int = 0
    connected_s: float = 0.0
    map_bytes: int = 0
    registrations: int = 0


class UsageMeter:
    """Counts, and writes what has come together."""

    def __init__(
        self,
        look: Callable[[], Iterable[tuple[TenantId, int, int]]],
        write: Callable[[Sequence[Usage]], Awaitable[None]],
        *,
        may_write: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """`look` gives (tenant, registered devices, connected ones); `clock` epoch seconds."""
        self._look = look
        self._write = write
        self._may_write = may_write
        self._clock = clock
        self._hours: dict[tuple[TenantId, float], _Hour] = {}
        self._sampled_at = self._written_at = clock()

    def sent(self, tenant_id: TenantId, size: int) -> None:
        """So many bytes of map messages went to devices of a tenant."""
        self._hour(tenant_id, self._clock()).map_bytes += size

    def registered(self, tenant_id: TenantId) -> None:
        """A device of a tenant has registered, anew or with another key."""
        self._hour(tenant_id, self._clock()).registrations += 1

    def _hour(self, tenant_id: TenantId, now: float) -> _Hour:
        key = tenant_id, now - now % HOUR_S
        hour = self._hours.get(key)
        if hour is None:
            if len(self._hours) >= MAX_WAITING:
                del self._hours[next(iter(self._hours))]
            hour = self._hours[key] = _Hour()
        return hour

    def sample(self) -> None:
        """Who is connected now has been so since the last look."""
        now = self._clock()
        passed_s = min(max(0.0, now - self._sampled_at), MAX_SAMPLE_S)
        self._sampled_at = now
        for tenant_id, registered, connected in self._look():
            if registered:
                hour = self._hour(tenant_id, now)
                hour.registered = max(hour.registered, registered)
                hour.peak = max(hour.peak, connected)
                hour.connected_s += connected * passed_s

    async def run_once(self) -> None:
        """A look, and a write when it is due."""
        self.sample()
        if self._clock() - self._written_at >= WRITE_EVERY_S:
            await self.flush()

    async def flush(self) -> None:
        """Write what has come together; kept when it cannot be written now."""
        self._written_at = self._clock()
        if not self._hours or not self._may_write():
            return
        taken, self._hours = self._hours, {}
        rows = [
            Usage(
                *(tenant_id, at, hour.registered, hour.peak),
                *(hour.connected_s, hour.map_bytes, hour.registrations),
            )
            for (tenant_id, at), hour in taken.items()
        ]
        try:
            await self._write(rows)
        except HsError as error:
            _log.warning("usage_not_written", rows=len(rows), reason=error.message)
            self._put_back(taken)

    def _put_back(self, taken: dict[tuple[TenantId, float], _Hour]) -> None:
        newer, self._hours = self._hours, taken
        for (tenant_id, at), hour in newer.items():
            old = self._hour(tenant_id, at)
            old.registered = max(old.registered, hour.registered)
            old.peak = max(old.peak, hour.peak)
            old.connected_s += hour.connected_s
            old.map_bytes += hour.map_bytes
            old.registrations += hour.registrations
