"""A policy is edited under a connected tenant: from its commit to the last device told (`policylive`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson

from app.db.scoped import Scoped
from app.simulation.scenario import fleet
from bench.fleets import Load, bytes_of
from bench.report import Table
from bench.system import Lab, Server, cpu_s

DEVICES = 1_000
EDITS = 5
#: After an edit, for the round that it causes.
QUIET_S = 1.5
SSH_GROUPS = 20


def _text(users: Sequence[str], port: int, *, group: int | None, own: bool) -> str:
    """A policy in which each group reaches every device on a port of its own; `group` has `port` too."""
    groups = {f"group:g{n}": list(users[n::SSH_GROUPS]) for n in range(SSH_GROUPS) if users[n::SSH_GROUPS]}
    rules: list[dict[str, Any]] = [{"action": "accept", "src": ["*"], "dst": ["*:443"]}]
    if own:
        rules = [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self:*"]}]
    elif group is None:
        rules.append({"action": "accept", "src": ["*"], "dst": [f"*:{port}"]})
    if group is not None:
        rules.append({"action": "accept", "src": [f"group:g{group}"], "dst": [f"{users[group]}:{port}"]})
    return orjson.dumps({"groups": groups, "acls": rules}).decode()


async def _keys(server: Server, users: int) -> tuple[int, list[str], list[str]]:
    """The home tenant, names of new users and an auth key of each."""
    admin = await Scoped.open(server.admin_dsn, cluster_id=server.cluster, role="hs_admin")
    try:
        tenant = await admin.tenant()
        names = [f"user{number}@example.com" for number in range(users)]
        keys = []
        for name in names:
            user = await admin.create_user(tenant.id, name)
            keys.append((await admin.create_auth_key(tenant.id, user.id, reusable=True))[1])
        return tenant.id, names, keys
    finally:
        await admin.close()


async def _set(server: Server, text: str) -> float:
    """Stores a policy; when it was committed, by the monotonic clock."""
    admin = await Scoped.open(server.admin_dsn, cluster_id=server.cluster, role="hs_admin")
    try:
        tenant = await admin.tenant()
        await admin.set_policy(tenant.id, text, author="bench")
        return time.monotonic()
    finally:
        await admin.close()


def _edits(server: Server, load: Load, texts: Sequence[str], told: int) -> list[dict[str, float]]:
    found = []
    for text in texts:
        load("fresh")
        cpu = cpu_s(server.pid)
        committed = asyncio.run(_set(server, text))
        last = load("told", told, QUIET_S)
        report = load.clean("policy")
        found.append(
            {
                "ms": (last - committed) * 1000,
                "cpu": (cpu_s(server.pid) - cpu) * 1000,
                "frames": report["frames"]["delta"]["count"] + report["frames"]["full"]["count"],
                "bytes": bytes_of(report) / 1000,
            }
        )
    return found


def _measured(lab: Lab, module: str, users: int, devices: int, own: bool, edits: int) -> dict[str, Any]:
    with lab.server(f"policy{users}{'self' if own else module[0]}", module=module) as server:
        _, names, keys = asyncio.run(_keys(server, users))
        first = _text(names, 80, group=None, own=own)
        asyncio.run(_set(server, first))
        with Load(server, fleet(server.target.url, keys, devices)) as load:
            load("join", None)
            load("settle")
            load.clean("joining")
            # Each edit moves a port that one user's devices have, reached by a group of others.
            some = [_text(names, 1000 + n, group=1, own=own) for n in range(edits + 1)]
            every = [_text(names, 2000 + n, group=None, own=False) for n in range(edits + 1)]
            # The naive server sends everybody a whole map.
            owned = devices // users if server.ours else devices
            return {
                "some": _edits(server, load, some, owned)[1:],
                "all": _edits(server, load, every, devices)[1:],
            }


def run(lab: Lab) -> Table:
    """An edit that concerns one user's devices, and one that concerns all."""
    devices, edits = (60, 1) if lab.quick else (DEVICES, EDITS)
    table = Table("policylive", f"a policy is edited, {devices:,} devices of one tenant connected")
    shapes = (("100 users", 100, False), ("500 users with autogroup:self", 500, True))
    for title, users, own in shapes:
        count = min(users, devices // 2)
        ours = _measured(lab, "node.cli", count, devices, own, edits)
        naive = None
        if not own:
            naive = _measured(lab, "bench.naive_server", count, devices, own, min(edits, 2))
        for kind, what in (("some", "concerns one user's devices"), ("all", "concerns all")):
            for key, figure, unit in (
                ("ms", "committed to the last frame", "ms wall"),
                ("cpu", "CPU of the server", "ms"),
                ("frames", "frames", ""),
                ("bytes", "map messages", "KB"),
            ):
                table.add(
                    f"{title}, an edit that {what}: {figure}",
                    unit,
                    [edit[key] for edit in ours[kind]],
                    naive=[edit[key] for edit in naive[kind]] if naive else None,
                )
    table.notes.append(
        f"The policy is stored as the shell stores it. Devices that it does not concern get no frame; CPU is "
        f"that of the edit and the {QUIET_S:g} s after it."
    )
    table.beside(lab.other_label)
    return table
