from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from control_server import ControlServer


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ControlServer]:
    control = ControlServer()
    await control.start()
    yield control
    await control.stop()
