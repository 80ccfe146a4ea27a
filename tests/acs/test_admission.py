"""Clusters that begin while an hs-acs is in charge wait to be admitted."""

from __future__ import annotations

import pytest

from app.api.client import AcsClient
from app.api.records import TenantAsked
from app.db.setup import Database
from app.errors import Refused
from tests.acs.support import AcsProcess, parsed
from tests.node.kit import Recorder, joined
from tests.node.support import ServeProcess, admin, eventually, fresh_database, run_sql


async def state_of(client: AcsClient, cluster: str) -> str:
    return (await client.cluster(cluster)).state


async def test_a_new_cluster_waits_to_be_admitted_where_an_hs_acs_is_in_charge(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn:
        async with (
            AcsProcess(dsn) as acs,
            acs.client() as client,
            ServeProcess(dsn, "north", secret_key_file=acs.secret_key_file) as north,
        ):
            assert await state_of(client, "north") == "joining"
            assert "hs-acs clusters admit north" in north.log()
            with pytest.raises(Refused, match="north: refused, it is joining"):
                await client.place(TenantAsked(name="customer"))
            async with admin(dsn, "north") as home, Recorder(north.url, await home.auth_key()) as device:
                await joined(device)
            told = await acs.shell("clusters", "admit", "north", "-o", "json", token=await acs.token())
            assert parsed(told)["state"] == "active"
            assert (await client.place(TenantAsked(name="customer"))).tenant.cluster == "north"
            # Another start finds the cluster as it is.
            await client.cluster_verb("north", "drain")
            await north.stop()
            await north.start()
            assert await state_of(client, "north") == "draining"
            # Nobody hears the last word of one that is killed, so it counts for a while.
            await acs.kill()
            assert await Database(dsn).ensure_cluster("east") == "joining"
            await acs.start()
            await acs.leads()
        # The row of the one that was killed is as good as gone after half a minute.
        await run_sql(
            dsn,
            "UPDATE hs.instances SET heartbeat_at = heartbeat_at - interval '30 seconds' WHERE kind = 'acs'",
        )
        assert await Database(dsn).ensure_cluster("south") == "active"


@pytest.mark.chaos
async def test_clusters_are_admitted_by_themselves_where_that_is_wanted(pg_server: str) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        AcsProcess(dsn, settings={"HS_ACS__AUTO_ADMIT": "true"}) as acs,
        acs.client() as client,
    ):
        assert await Database(dsn).ensure_cluster("unserved") == "joining"
        async with ServeProcess(dsn, "west", secret_key_file=acs.secret_key_file):

            async def admitted() -> bool:
                return await state_of(client, "west") == "active"

            await eventually(admitted, "west is admitted")
        assert await state_of(client, "unserved") == "joining"
        rows = await run_sql(
            dsn,
            "SELECT cluster_id, before->>'state', after->>'state' FROM hs.audit_log"
            " WHERE action = 'cluster_update' AND actor LIKE 'job:%'",
        )
        assert [tuple(row) for row in rows] == [("west", "joining", "active")]
