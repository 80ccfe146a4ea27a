"""A prepared database with clusters `a` and `b`, and ways into it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from db_helpers import Home, Watch, as_role, join, take_lease

from app.db.scoped import Scoped
from app.db.setup import Database
from app.model import Device


@pytest.fixture
async def prepared(database: str) -> Database:
    db = await Database.prepare(database)
    assert await db.ensure_cluster("a")
    assert await db.ensure_cluster("b")
    return db


@pytest.fixture
async def admin(prepared: Database) -> AsyncIterator[Scoped]:
    """The shell of cluster `a`."""
    scoped = await Scoped.open(prepared.dsn, cluster_id="a", role="hs_admin", pool_size=4)
    yield scoped
    await scoped.close()


@pytest.fixture
async def owner(prepared: Database) -> AsyncIterator[Scoped]:
    """The owning process of cluster `a`."""
    epoch = await take_lease(prepared.dsn, "a", "owner-a")
    scoped = await Scoped.open(prepared.dsn, cluster_id="a", instance="owner-a", epoch=epoch)
    yield scoped
    await scoped.close()


@pytest.fixture
async def home(admin: Scoped) -> Home:
    tenant = await admin.tenant()
    user = await admin.create_user(tenant.id, "alice")
    _, reusable = await admin.create_auth_key(tenant.id, user.id, reusable=True)
    _, single = await admin.create_auth_key(tenant.id, user.id)
    _, tagged = await admin.create_auth_key(tenant.id, None, reusable=True, tags=["tag:web"])
    return Home(tenant, user, reusable, single, tagged)


@pytest.fixture
async def watch(prepared: Database, owner: Scoped, home: Home) -> AsyncIterator[Watch]:
    conn = await as_role(prepared.dsn, "hs_owner")
    watching = Watch(owner, conn)
    await watching.start()
    yield watching
    await conn.close()


@pytest.fixture
async def router(owner: Scoped, home: Home) -> Device:
    device = (await join(owner, home.reusable)).device
    assert device is not None
    return device
