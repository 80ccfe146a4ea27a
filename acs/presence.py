"""Says in the database that this hs-acs is there: while one is, new clusters wait to be admitted."""

from __future__ import annotations

import asyncio

from app import log
from app.db.routing import Routing
from app.errors import HsError, Unavailable
from app.model import Instance

_log = log.get("presence")

#: The database counts an instance as there for 30 s after it was heard.
HEARTBEAT_S = 10.0
#: For taking this process from the list; one that is left is overlooked soon anyway.
GOODBYE_DEADLINE_S = 2.0


class Presence:
    """One row of `instances`, written again and again, and taken away at the end."""

    def __init__(self, store: Routing, instance: Instance) -> None:
        self._store = store
        self._instance = instance

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._store.put_instance(self._instance)
            except Unavailable as error:
                _log.warning("heartbeat_missed", reason=error.message)
            await asyncio.sleep(HEARTBEAT_S)

    async def goodbye(self) -> None:
        """This process is gone."""
        try:
            async with asyncio.timeout(GOODBYE_DEADLINE_S):
                await self._store.delete_instance(self._instance.id)
        except (HsError, TimeoutError) as error:
            _log.warning("instance_not_deleted", reason=str(error) or "no answer")
