"""Changes that others commit -> hub. A notification only wakes; rows of `changes` are the truth.

Every row is read exactly once by transaction snapshot (DATABASE.md 4.2). Rows of this instance are
skipped: their effect is in memory already. What a row names is read again, so order is no matter.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Protocol

from app import log
from app.errors import LeaseLost, Unavailable
from app.model import Change, ClusterSnapshot, Device, DeviceId, User, UserId
from node.hub import Hub

_log = log.get("refresh")

#: `changes` is read at least this often, should every notification be lost.
POLL_EVERY_S = 1.0
#: More changed devices than this in one read: the whole cluster is loaded instead.
RELOAD_ABOVE = 5000


class Source(Protocol):
    """What is needed of the database (app.db.Scoped)."""

    async def load(self) -> ClusterSnapshot: ...

    async def load_devices(self, ids: Iterable[DeviceId]) -> list[Device]: ...

    async def load_users(self, ids: Iterable[UserId]) -> list[User]: ...

    async def changes(self, position: str) -> tuple[str, list[Change]]: ...


class Refresher:
    """Keeps the hub equal to what is committed."""

    def __init__(
        self,
        source: Source,
        hub: Hub,
        *,
        instance: str,
        on_derp: Callable[[], Awaitable[None]],
        on_rows: Callable[[int], None],
    ) -> None:
        self._source = source
        self._hub = hub
        self._instance = instance
        self._on_derp = on_derp
        self._on_rows = on_rows
        self._position = ""

    async def load(self) -> None:
        """Everything from one snapshot, and the position that belongs to it."""
        snapshot = await self._source.load()
        self._hub.load(snapshot)
        self._position = snapshot.position

    async def catch_up(self) -> int:
        """Apply what was committed since the last read; returns the number of foreign rows."""
        position, changes = await self._source.changes(self._position)
        foreign = [change for change in changes if change.origin != self._instance]
        if foreign:
            await self._apply(foreign)
            self._on_rows(len(foreign))
        self._position = position
        return len(foreign)

    async def _apply(self, changes: list[Change]) -> None:
        devices: set[DeviceId] = set()
        users: set[UserId] = set()
        for change in changes:
            for key in change.scope_key.split(","):
                kind, _, value = key.partition(":")
                if kind == "device":
                    devices.add(DeviceId(int(value)))
                elif kind == "user":
                    users.add(UserId(int(value)))
                elif kind == "derp":
                    await self._on_derp()
                elif kind == "tag":
                    continue  # the devices that changed it are named beside it
                else:
                    await self.load()
                    return
        if len(devices) > RELOAD_ABOVE:
            await self.load()
            return
        await self._reload_users(users)
        await self._reload_devices(devices)

    async def _reload_users(self, ids: set[UserId]) -> None:
        if not ids:
            return
        found = {user.id: user for user in await self._source.load_users(ids)}
        for user_id in ids:
            user = found.get(user_id)
            known = self._hub.user(user_id)
            if user is not None:
                self._hub.put_user(user)
            elif known is not None:
                self._hub.remove_user(known)

    async def _reload_devices(self, ids: set[DeviceId]) -> None:
        if not ids:
            return
        found = {device.id: device for device in await self._source.load_devices(ids)}
        for device_id in ids:
            device = found.get(device_id)
            if device is not None:
                self._hub.put_device(device)
            else:
                self._hub.remove_device(device_id)

    async def run(self, wakes: AsyncIterator[bool]) -> None:
        """Follow for ever. `wakes` yields True when a whole reload is due, False to catch up."""
        async for reload in _at_least_every(wakes, POLL_EVERY_S):
            try:
                if reload:
                    await self.load()
                else:
                    await self.catch_up()
            except LeaseLost:
                raise
            except Unavailable as error:
                _log.warning("refresh_delayed", reason=error.message)


async def _at_least_every(wakes: AsyncIterator[bool], seconds: float) -> AsyncIterator[bool]:
    """The items of `wakes`, and False whenever none came for so long."""
    pending: asyncio.Future[bool] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(wakes))  # type: ignore[arg-type]
            done, _ = await asyncio.wait([pending], timeout=seconds)
            if not done:
                yield False
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            pending = None
            yield item
    finally:
        if pending is not None:
            pending.cancel()
