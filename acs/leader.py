"""Which hs-acs leads: one instance holds the lease `acs` and runs the jobs; the others wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from acs.jobs import JobRunner
from app import log
from app.db.lease import Lease, LeaseState
from app.errors import HsError, Unavailable
from app.jobs import schedule

_log = log.get("leader")

LEASE = "acs"
#: After a lost lease, before this instance asks for it again.
AGAIN_S = 1.0


class Leader:
    """Asks for the lease as long as the process lives, and runs the jobs while it holds it."""

    def __init__(
        self,
        dsn: str,
        instance: str,
        *,
        ttl_s: float,
        runner: Callable[[], JobRunner],
        on_change: Callable[[bool], None],
    ) -> None:
        self._dsn = dsn
        self._instance = instance
        self._ttl_s = ttl_s
        self._runner = runner
        self._on_change = on_change
        self._lease: Lease | None = None

    @property
    def leads(self) -> bool:
        """Whether the jobs are this instance's to run now; a frozen leader starts none."""
        return self._lease is not None and self._lease.state is LeaseState.OWNER

    @property
    def epoch(self) -> int | None:
        return self._lease.epoch if self._lease is not None and self.leads else None

    async def run(self) -> None:
        """Until cancelled; gives the lease back then."""
        while True:
            self._lease = lease = Lease(
                self._dsn, LEASE, self._instance, ttl_s=self._ttl_s, on_state=lambda _: self._told()
            )
            try:
                epoch = await lease.wait()
                _log.info("leading", instance=self._instance, epoch=epoch)
                await self._lead(lease)
            finally:
                await _give_back(lease)
                self._told()
            _log.warning("leads_no_more", instance=self._instance)
            await asyncio.sleep(AGAIN_S)

    async def _lead(self, lease: Lease) -> None:
        runner = self._runner()
        await _declared(runner)
        scheduler = schedule(runner.by_the_clock())
        try:
            await lease.wait_for(LeaseState.LOST)
        finally:
            scheduler.shutdown(wait=False)

    def _told(self) -> None:
        self._on_change(self.leads)


async def _declared(runner: JobRunner) -> None:
    while True:
        try:
            await runner.declare()
        except Unavailable as error:
            _log.warning("jobs_not_declared", reason=error.message)
            await asyncio.sleep(AGAIN_S)
        else:
            return


async def _give_back(lease: Lease) -> None:
    if lease.state is LeaseState.LOST:
        return
    try:
        await lease.release()
    except HsError as error:
        _log.warning("lease_not_released", reason=error.message)
        lease.close()
