"""Admission: the data-access object of hs-acs, over all clusters of a deployment."""

from __future__ import annotations

from typing import Self

from app.db.access import Access
from app.db.connect import POOL_MAX, create_pool, server_settings
from app.db.health import Alarms, LoadStore
from app.db.jobs import Jobs
from app.db.logins import LoginFacts
from app.db.moves import Moves
from app.db.rebalances import Rebalances
from app.db.requests import AcsRequests
from app.db.route_facts import RouteFacts
from app.db.usage import Overrides, UsageFacts
from app.db.webhooks import Webhooks

ROLE = "hs_acs"


class Admission(
    Access,
    Overrides,
    UsageFacts,
    Webhooks,
    Jobs,
    Moves,
    Rebalances,
    AcsRequests,
    RouteFacts,
    LoginFacts,
    LoadStore,
    Alarms,
):
    """Everything hs-acs may do in the database. Each write names its tenant or cluster, and is audited."""

    @classmethod
    async def open(cls, dsn: str, *, instance: str = "", pool_size: int = POOL_MAX) -> Self:
        """A pool in the role hs_acs. Raises ConfigError, Unavailable."""
        return cls(await create_pool(dsn, pool_size, server_settings(ROLE, instance=instance)))

    async def answers(self) -> None:
        """Raises Unavailable unless the database answers."""
        await self._fetchval("SELECT 1")
