"""Operations on clusters: looked at, admitted, described, drained."""

from __future__ import annotations

from typing import Any

from acs.api.operation import ADMIN, MAY, READ_ONLY, Call, Operation, Reply
from app.api.records import Cluster, ClusterChange, Page
from app.db.tenants import Tenants
from app.placement import ClusterLoad


def shown(load: ClusterLoad) -> Cluster:
    return Cluster(
        id=load.cluster_id,
        state=load.state,
        region=load.region,
        labels=dict(load.labels),
        weight=load.weight,
        max_tenants=load.max_tenants,
        max_devices=load.max_devices,
        tenants=load.tenants,
        devices=load.devices,
        reserved=load.reserved,
        served=load.is_owned,
        login_url=load.login_url,
        version=load.version,
    )


def operations(store: Tenants) -> list[Operation[Any]]:
    """What the API offers about clusters."""

    async def all_clusters(call: Call) -> Reply:
        return Reply(Page[Cluster](items=[shown(load) for load in await store.cluster_loads()]))

    async def one(call: Call) -> Reply:
        load = await store.cluster_load(call.path["cluster"])
        return Reply(shown(load), version=load.version)

    async def change(call: Call) -> Reply:
        asked: ClusterChange = call.body
        load = await store.update_cluster(
            call.path["cluster"],
            actor=call.caller.actor,
            version=call.if_match,
            **asked.model_dump(exclude_unset=True),
        )
        return Reply(shown(load), version=load.version)

    def into(state: str) -> Any:
        async def run(call: Call) -> Reply:
            load = await store.update_cluster(call.path["cluster"], actor=call.caller.actor, state=state)
            return Reply(shown(load), version=load.version)

        return run

    at, may = "/v1/clusters", MAY[ADMIN]
    one_at, tags = f"{at}/{{cluster}}", ("clusters",)
    return [
        Operation("GET", at, "All clusters.", MAY[READ_ONLY], all_clusters, Page[Cluster], tags=tags),
        Operation("GET", one_at, "A cluster.", MAY[READ_ONLY], one, Cluster, versioned=True, tags=tags),
        Operation(
            *("PATCH", one_at, "Describe a cluster.", may, change, Cluster),
            body=ClusterChange,
            versioned=True,
            tags=tags,
        ),
        Operation("POST", f"{one_at}/admit", "Let it take tenants.", may, into("active"), Cluster, tags=tags),
        Operation(
            "POST",
            f"{one_at}/drain",
            "Give it no more tenants.",
            may,
            into("draining"),
            Cluster,
            tags=tags,
        ),
    ]
