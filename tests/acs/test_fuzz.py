"""Every operation of the API under fire: from the token of another tenant, and from its own description."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.api.records import JoinAsked, JoinTokenAsked, TenantAsked, TenantChange, TokenAsked
from tests.acs.support import AcsProcess
from tests.node.kit import Recorder, joined
from tests.node.support import ServeProcess, admin, fresh_database, run_sql

ROOT = Path(__file__).resolve().parents[2]
#: In everything that is bravo's but its name and ids, which alpha knows.
MARK = "classified"
LIMITS = {"HS_ACS__REQUESTS_PER_MINUTE": "1000000", "HS_TRUSTED_PROXIES": "127.0.0.0/8"}
#: Presence, and what others write of it.
MOVING = ("node_state", "presence", "changes")
SCHEMATHESIS_S = 100
HOOKS = "tests.acs.schemathesis_hooks"


@dataclass
class Target:
    """Two tenants of one cluster with the same names inside, and what alpha's token shall not reach."""

    acs: AcsProcess
    alpha: int
    bravo: int
    token: str
    admin_token: str
    #: The join token that is bravo's.
    join_token: int
    operations: list[tuple[str, str]]

    async def rows(self) -> dict[str, list[str]]:
        """All of bravo's rows."""
        dsn = self.acs.settings["PG_DSN"]
        tables = await run_sql(
            dsn,
            "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
            " WHERE c.relnamespace = 'hs'::regnamespace AND c.relkind = 'r' AND a.attname = 'tenant_id'",
        )
        whose = {name: f"tenant_id = {self.bravo}" for (name,) in tables if name not in MOVING}
        whose["join_tokens"] = "tenant = 'bravo'"
        every = " UNION ALL ".join(
            f"SELECT '{name}', t::text FROM hs.{name} t WHERE {condition}"
            for name, condition in sorted(whose.items())
        )
        found: dict[str, list[str]] = {}
        for name, text in await run_sql(dsn, every):
            found.setdefault(name, []).append(text)
        return {name: sorted(texts) for name, texts in found.items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(pg_server: str) -> AsyncIterator[Target]:
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(fresh_database(pg_server))
        node = await stack.enter_async_context(ServeProcess(dsn, "one"))
        acs = await stack.enter_async_context(
            AcsProcess(dsn, secret_key_file=node.secret_key_file, settings=LIMITS)
        )
        client = await stack.enter_async_context(acs.client())
        alpha = (await client.place(TenantAsked(name="alpha"))).tenant
        bravo = (await client.place(TenantAsked(name="bravo"))).tenant
        await client.change_tenant(bravo.id, TenantChange(labels={"owner": MARK}))
        for tenant in (alpha, bravo):
            name = tenant.name if tenant is alpha else MARK
            made = await client.create_join_token(JoinTokenAsked(tenant=tenant.name, user=name))
            joining = await client.join(JoinAsked(token=made.text))
            async with Recorder(node.url, joining.auth_key, hostname=name) as device:
                await joined(device)
        async with admin(dsn, "one", "bravo") as inside:
            await inside.scoped.set_policy(bravo.id, f"{{}} // {MARK}", author=MARK)
        await client.create_token(TokenAsked(name=MARK, scope="tenant-admin", tenant=bravo.id))
        own = await client.create_token(TokenAsked(name="own", scope="tenant-admin", tenant=alpha.id))
        async with httpx.AsyncClient(base_url=acs.url, trust_env=False) as http:
            paths = (await http.get("/v1/openapi.json")).json()["paths"]
        operations = [(method.upper(), path) for path, methods in paths.items() for method in methods]
        yield Target(acs, alpha.id, bravo.id, own.text, await acs.token(), made.id, operations)


def spellings(target: Target) -> st.SearchStrategy[str]:
    """Ways to write an id into a path, "{}" for it."""
    forms = [
        "{}",
        "0{}",
        "+{}",
        "%20{}",
        "{}.0",
        "{}%00",
        "{}%0a",
        f"{target.alpha}%2F..%2F{{}}",
        "{};x",
        "-{}",
    ]
    return st.sampled_from(forms)


def bodies(target: Target) -> st.SearchStrategy[dict[str, Any]]:
    """Members that operations take, with values of bravo's where they name a tenant."""
    text = st.text(max_size=20)
    return st.fixed_dictionaries(
        {},
        optional={
            "tenant": st.sampled_from(["bravo", target.bravo, str(target.bravo)]),
            "name": st.sampled_from(["bravo", "mine"]) | text,
            "token": text,
            "user": st.just("default") | text,
            "scope": st.sampled_from(["admin", "tenant-admin"]),
            "max_devices": st.integers(-2, 5),
            "labels": st.dictionaries(text, text, max_size=2),
        },
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_d18_a_tenants_token_reaches_nothing_of_another_tenant(target: Target, data: st.DataObject) -> None:
    before = asyncio.run(target.rows())
    assert len(before) > 6, before.keys()
    form = data.draw(st.just("{}") | spellings(target), "id in the path")
    body = data.draw(st.just({}) | st.just({"tenant": "bravo"}) | bodies(target), "body")
    query = data.draw(
        st.just({})
        | st.fixed_dictionaries({}, optional={"tenant": st.just("bravo"), "name": st.just("bravo")}),
        "query",
    )
    # What is neither a tenant nor a tenant's is not for a tenant's token, whatever its name.
    of_bravo = {"tenant": target.bravo, "token": target.join_token}
    headers = {"Authorization": f"Bearer {target.token}"}
    with httpx.Client(base_url=target.acs.url, headers=headers, trust_env=False) as http:
        for method, path in target.operations:
            where = re.sub(r"{(\w+)}", lambda name: form.format(of_bravo.get(name[1], target.bravo)), path)
            content = {} if method in ("GET", "DELETE") else {"json": body}
            answer = http.request(method, where, params=query, **content)
            told = f"{method} {where} {query} {content}: {answer.status_code} {answer.text}"
            assert MARK not in answer.text, told
            assert answer.status_code < 500, told
            if where != path or "tenant" in content.get("json", {}):
                expected = (403, 404) if not query and body in ({}, {"tenant": "bravo"}) else (400, 403, 404)
                assert answer.status_code in expected, told
    assert asyncio.run(target.rows()) == before


@pytest.mark.parametrize("examples", [4, pytest.param(10, marks=pytest.mark.soak)])
def test_the_api_does_what_its_description_says(target: Target, tmp_path: Path, examples: int) -> None:
    """schemathesis: values at and beyond every bound, random ones, and chains of calls."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{target.acs.url}/v1/openapi.json"),
            *("--header", f"Authorization: Bearer {target.admin_token}"),
            *("--max-examples", str(examples), "--seed", "1", "--no-color", "--suppress-health-check", "all"),
            # Some rules are no matter of form, such as a time that has passed; and a header that is
            # given to all calls is never missing.
            *("--exclude-checks", "positive_data_acceptance,missing_required_header"),
            # It would end the very token it calls with.
            *("--exclude-operation-id", "delete_tokens_token"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            "SCHEMATHESIS_HOOKS": HOOKS,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCHEMATHESIS_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "mostly returned 429" not in result.stdout
