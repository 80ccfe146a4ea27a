from __future__ import annotations

from tests.node.support import DEADLINE_S, ServeProcess, admin, device, join


async def test_two_devices_meet(database: str) -> None:
    async with ServeProcess(database) as serve, admin(database) as home:
        key = await home.auth_key()
        async with device(serve.url, key) as a, device(serve.url, key) as b:
            await join(a)
            await join(b)
            await a.wait_for(lambda n: len(n.peers) == 1, DEADLINE_S)
            assert not a.violations
            metrics = await serve.metrics()
            assert metrics["hs_registrations_total{outcome=created}"] == 2
        result = await serve.shell("users", "list")
        assert result.code == 0
        assert "alice" in result.out
        await serve.kill()
        await serve.start()
        assert await serve.stop() == 0
