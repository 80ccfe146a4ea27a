"""The page on which people join, and whose address counts behind proxies."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from acs.api.limits import GUESSES_PER_MINUTE
from app.api.client import AcsClient
from app.api.records import JoinTokenAsked
from tests.acs.support import AcsProcess
from tests.node.kit import Recorder, joined
from tests.node.support import ServeProcess, fresh_database, run_sql

HOSTILE = "Bobby <script>alert(1)</script> & \u202e\"Co'"


@dataclass
class Deployment:
    node: ServeProcess
    acs: AcsProcess
    #: Another hs-acs, which trusts a proxy on this machine.
    behind: AcsProcess


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def deployment(pg_server: str) -> AsyncIterator[Deployment]:
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(fresh_database(pg_server))
        node = await stack.enter_async_context(ServeProcess(dsn, "one"))
        acs = await stack.enter_async_context(AcsProcess(dsn, secret_key_file=node.secret_key_file))
        trusting = {"HS_TRUSTED_PROXIES": "127.0.0.0/8"}
        behind = await stack.enter_async_context(
            AcsProcess(dsn, settings=trusting, secret_key_file=node.secret_key_file)
        )
        yield Deployment(node, acs, behind)


@pytest.fixture
async def admin(deployment: Deployment) -> AsyncIterator[AcsClient]:
    async with deployment.acs.client() as client:
        yield client


@pytest.fixture
async def browser(deployment: Deployment) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=deployment.acs.url, trust_env=False) as client:
        yield client


def part(page: str, name: str) -> str:
    found = re.search(f'<pre id="{name}">(.*?)</pre>', page, re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


async def test_a_token_in_the_form_shows_all_that_a_device_needs(
    deployment: Deployment, admin: AcsClient, browser: httpx.AsyncClient
) -> None:
    token = await admin.create_join_token(JoinTokenAsked(tenant=HOSTILE, user="alice", uses=1))
    asked = await browser.get("/join")
    assert asked.status_code == 200
    assert '<form method="post" action="/join">' in asked.text
    shown = await browser.post("/join", data={"token": f" {token.text}\n"})
    assert shown.status_code == 201
    assert "<script>alert(1)" not in shown.text
    assert "Bobby &lt;script&gt;alert(1)&lt;/script&gt; &amp; " in shown.text
    assert "\u202e" not in shown.text, "nothing turns the text around"
    assert part(shown.text, "server") == deployment.node.url
    key = part(shown.text, "key")
    command = f"tailscale up --login-server {deployment.node.url} --auth-key {key}"
    assert part(shown.text, "command") == command
    assert shown.text.count("<svg ") == 2
    for page in (asked, shown):
        assert page.headers["cache-control"] == "no-store"
        policy = page.headers["content-security-policy"]
        for kind in ("script", "style"):
            (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", page.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy
        assert not re.search(r"""(src|href|action)\s*=\s*["']?(https?:)?//""", page.text), (
            "nothing is fetched"
        )
        assert not re.search(r"<[^>]*\son\w+=", page.text), "nothing but the script that the policy names"
    async with Recorder(deployment.node.url, key) as device:
        await joined(device)
    again = await browser.post("/join", data={"token": token.text})
    assert (again.status_code, "used up" in again.text, "Bobby" in again.text) == (403, True, False)
    assert token.text not in deployment.acs.log()


@pytest.mark.parametrize(
    ("form", "status", "says"),
    [
        (b"token=hskey-join-000000000000-" + b"0" * 64, 403, "unknown, expired, revoked or used up"),
        (b"token=%3Cb%3E", 403, "unknown, expired, revoked or used up"),
        (b"", 400, "give a join token"),
        (b"token=", 400, "give a join token"),
        (b"token=a&token=b", 400, "give a join token"),
        (b"\xff\xfe", 400, "give a join token"),
        (b"token=" + b"a" * 200, 400, "give a join token"),
        (b"token=" + b"a" * 5000, 400, "at most 4096 bytes"),
    ],
)
async def test_what_does_not_do_is_said_above_the_form(
    browser: httpx.AsyncClient, form: bytes, status: int, says: str
) -> None:
    answer = await browser.post("/join", content=form)
    assert answer.status_code == status
    assert says in answer.text
    assert '<form method="post"' in answer.text


async def test_limits_and_audit_go_by_the_client_behind_a_trusted_proxy(
    deployment: Deployment, admin: AcsClient
) -> None:
    async def guess(forwarded: str) -> int:
        headers = {"Authorization": "Bearer nonsense", "X-Forwarded-For": forwarded}
        return (await http.get("/v1/tokens", headers=headers)).status_code

    async with httpx.AsyncClient(base_url=deployment.behind.url, trust_env=False) as http:
        # What the client itself wrote stands further left, and is not looked at.
        statuses = [await guess(f"192.0.2.{n}, 203.0.113.5") for n in range(GUESSES_PER_MINUTE + 1)]
        assert statuses == [401] * GUESSES_PER_MINUTE + [429]
        assert await guess("203.0.113.6") == 401
    token = await admin.create_join_token(JoinTokenAsked(tenant="audited"))
    for acs, seen in ((deployment.behind, "203.0.113.9"), (deployment.acs, "127.0.0.1")):
        async with httpx.AsyncClient(base_url=acs.url, trust_env=False) as http:
            headers = {"X-Forwarded-For": "203.0.113.9"}
            assert (await http.post("/join", data={"token": token.text}, headers=headers)).status_code == 201
        rows = await run_sql(
            acs.settings["PG_DSN"],
            "SELECT actor FROM hs.audit_log WHERE action LIKE '%key%' ORDER BY id DESC LIMIT 1",
        )
        assert [row[0] for row in rows] == [f"anonymous:{seen}"]
