"""What a process of `hs-node serve` tells of itself: whether it is ready, whom it knows, its series."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from app.db.scoped import Scoped
from app.errors import HsError, Unavailable
from app.keys import NodeKey
from app.model import Login
from node.metrics import Metrics
from node.web import Facts

if TYPE_CHECKING:
    from node.serve import Serving

HEALTH_DEADLINE_S = 1.0
STARTING = "starting"


def facts_of(serving: Serving, metrics: Metrics) -> Facts:
    """Asked by its pages, by the metrics address and by the relay process."""
    asking: asyncio.Task[bool] | None = None

    async def ask_database() -> bool:
        try:
            if serving.follower is not None:
                await serving.follower.scoped.current_position()
            elif serving.lease is not None:
                await serving.lease.holder()
        except HsError:
            return False
        return True

    async def database_answers() -> bool:
        """One question at a time: a driver may be unable to give up one that hangs."""
        nonlocal asking
        if asking is None or asking.done():
            asking = asyncio.create_task(ask_database(), name="health")
        question = asking
        done, _ = await asyncio.wait({question}, timeout=HEALTH_DEADLINE_S)
        return bool(done) and question.result()

    async def ready() -> bool:
        return serving.state != STARTING and await database_answers()

    def scope() -> Scoped:
        if serving.follower is None:
            raise Unavailable("this instance is starting")
        return serving.follower.scoped

    async def node_key_known(key: bytes) -> bool:
        known = serving.follower and serving.follower.hub.device_by_node_key(key)
        if serving.follower and known:
            return serving.follower.hub.why_cut_off(known) is None
        return await scope().node_key_known(NodeKey(key))

    async def login(login_id: str) -> Login | None:
        found = await scope().logins([login_id])
        return found[0] if found else None

    return Facts(
        serving.settings.cluster_id,
        lambda: serving.state,
        ready,
        node_key_known,
        login,
        lambda: metrics_text(serving, metrics),
    )


def metrics_text(serving: Serving, metrics: Metrics) -> bytes:
    """All series, with the gauges of now."""
    if serving.front is not None:
        serving.front.set_gauges(metrics)
    if serving.owner is not None:
        serving.owner.set_gauges()
    elif serving.follower is not None:
        metrics.followed(*serving.follower.hub.counts()[:2])
    return metrics.text()
