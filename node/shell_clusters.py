"""What the commands of `hs-node clusters` do."""

from __future__ import annotations

from app.database import database_dsn
from app.db.setup import Database
from app.errors import NotFound
from app.model import ClusterFacts
from app.output import Row, show, when
from app.settings import Settings


async def list_clusters(settings: Settings, output: str) -> None:
    async with database_dsn(settings) as dsn:
        clusters = await (await Database.prepare(dsn)).clusters()
    show([cluster_row(cluster) for cluster in clusters], output)


async def show_cluster(settings: Settings, cluster_id: str, output: str) -> None:
    async with database_dsn(settings) as dsn:
        database = await Database.prepare(dsn)
        found = await database.clusters(cluster_id)
        if not found:
            raise NotFound(f"there is no cluster {cluster_id!r} in this database")
        instances = await database.instances(cluster_id)
    processes = [f"{name} ({version}, heard {age_s:.0f} s ago)" for name, version, age_s in instances]
    show(
        {**cluster_row(found[0]), "region": found[0].region, "created": when(found[0].created)}
        | {"processes": processes},
        output,
        upright=True,
    )


def cluster_row(cluster: ClusterFacts) -> Row:
    age_s = cluster.lease_age_s
    return {
        "cluster": cluster.cluster_id,
        "state": cluster.state,
        "owner": cluster.owner,
        "epoch": cluster.epoch,
        "tenants": cluster.tenants,
        "users": cluster.users,
        "devices": cluster.devices,
        "connected": cluster.connected,
        "lease_age_s": None if age_s is None else round(age_s, 1),
    }
