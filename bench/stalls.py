"""How long a server holds its event loop while it does what is large (`stalls`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from app.db.connect import connect
from app.db.scoped import Scoped
from app.simulation.scenario import fleet
from bench.fleet_rows import seed
from bench.fleets import Load
from bench.report import Table
from bench.system import Lab, Server

CLUSTER_DEVICES = 100_000
TENANT_DEVICES = 10_000
CONNECTED = 300
BUDGET_MS = 10.0
DEADLINE_S = 120.0
QUIET_S = 2.0
LONGEST = "hs_loop_stall_longest_seconds"
_POLICY = """{"groups": {"group:ops": ["user1@", "user2@"]},
 "tagOwners": {"tag:server": ["group:ops"], "tag:rack1": ["group:ops"]},
 "acls": [{"action": "accept", "src": ["*"], "dst": ["tag:server:443"]},
          {"action": "accept", "src": ["group:ops"], "dst": ["tag:rack1:%d"]},
          {"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]}"""


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.2)


class Watch:
    """The figures of a server. Whoever reads them starts the longest hold anew, so it is kept here."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._longest_s = 0.0

    def value(self, name: str) -> float:
        """The sum of a series."""
        found = self._server.series(name, LONGEST)
        self._longest_s = max(self._longest_s, found[1])
        return found[0]

    def more(self, name: str, than: float) -> bool:
        """Whether the sum of a series has grown."""
        return self.value(name) > than

    def longest_ms(self) -> float:
        """Since this was last asked."""
        self.value(LONGEST)
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s * 1000


async def _key(server: Server) -> str:
    admin = await Scoped.open(server.admin_dsn, cluster_id=server.cluster, role="hs_admin")
    try:
        tenant = await admin.tenant()
        user = await admin.create_user(tenant.id, "stalls")
        return (await admin.create_auth_key(tenant.id, user.id, reusable=True))[1]
    finally:
        await admin.close()


async def _set_policy(server: Server, port: int) -> None:
    admin = await Scoped.open(server.admin_dsn, cluster_id=server.cluster, role="hs_admin")
    try:
        await admin.set_policy((await admin.tenant()).id, _POLICY % port, author="bench")
    finally:
        await admin.close()


async def _load_again(server: Server) -> None:
    """A change of the tenant itself has the whole cluster read again."""
    connection = await connect(server.admin_dsn, "hs_owner")
    try:
        await connection.execute("UPDATE tenants SET name = name || 'x'")
    finally:
        await connection.close(timeout=10)


def _seeded(lab: Lab, devices: int) -> tuple[str, Server]:
    name = f"stalls{devices}"
    dsn = lab.postgres.new_database(f"bench_{name}")
    asyncio.run(seed(dsn, devices, clusters=1))
    place = lab.directory / name
    place.mkdir()
    server = Server(dsn, place, lab.postgres.pid, admin_dsn=dsn, module="node.cli", cluster="c0")
    return f"bench_{name}", server


def run(lab: Lab) -> Table:
    """Each line is one step, and the longest hold of the loop in it."""
    many, tenant, connected = (
        (2_000, 1_000, 30) if lab.quick else (CLUSTER_DEVICES, TENANT_DEVICES, CONNECTED)
    )
    table = Table("stalls", "the longest hold of the event loop")

    def held(what: str, value: float) -> None:
        table.add(what, "ms wall", [value], budget=BUDGET_MS)

    database, server = _seeded(lab, many)
    watch = Watch(server)
    try:
        _until(lambda: watch.value("hs_changed_devices_total") >= many, "the first commit")
        held(f"start with {many:,} registered devices, to the last netmap row", watch.longest_ms())
        rows = watch.value("hs_foreign_changes_total")
        asyncio.run(_load_again(server))
        _until(lambda: watch.value("hs_foreign_changes_total") > rows, "the reload")
        time.sleep(QUIET_S)
        held(f"the same {many:,} read again while it serves", watch.longest_ms())
    finally:
        server.stop()
        lab.postgres.drop_database(database)
    database, server = _seeded(lab, tenant)
    watch = Watch(server)
    try:
        _until(lambda: watch.value("hs_changed_devices_total") >= tenant, "the first commit")
        key = asyncio.run(_key(server))
        with Load(server, fleet(server.target.url, [key], connected)) as load:
            watch.longest_ms()
            load("join", None)
            held(f"{connected} devices join a tenant of {tenant:,}, all at once", watch.longest_ms())
            for port, what in ((80, "a first policy"), (81, "another one")):
                rounds = watch.value("hs_round_seconds_count")
                asyncio.run(_set_policy(server, port))
                _until(partial(watch.more, "hs_round_seconds_count", rounds), "a round")
                time.sleep(QUIET_S)
                held(f"{what} for {tenant:,} devices, {connected} connected", watch.longest_ms())
            load("storm")
            load("settle")
            held(f"{connected} of {tenant:,} lose their connections and come back", watch.longest_ms())
            load.clean("stalls")
    finally:
        server.stop()
        lab.postgres.drop_database(database)
    table.notes.append(
        "Sampled every 10 ms by the server itself: what is longer is seen. PostgreSQL and the load share the "
        "cores, so a sample may be late because another process ran."
    )
    return table
