"""Who may call hs-acs, how often, with what; and what callers read when they may not."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from acs.api.limits import GUESSES_PER_MINUTE, RateLimits
from app.api.client import AcsClient
from app.api.records import NewToken, TokenAsked
from app.buckets import Buckets
from app.errors import (
    BadRequest,
    Conflict,
    HsError,
    NotFound,
    RateLimited,
    Refused,
    Unauthorized,
    Unavailable,
)
from tests.acs.support import AcsProcess, parsed
from tests.node.support import eventually, free_port, fresh_database, run_sql


async def test_a_token_opens_what_its_scope_permits_and_ends_when_revoked(
    acs: AcsProcess, admin: AcsClient
) -> None:
    made = await admin.create_token(TokenAsked(name="reader", scope="read-only"))
    async with AcsClient(acs.url, made.text) as reader:
        assert (await reader.service()).version
        with pytest.raises(Refused, match="needs a token with scope admin, not a read-only token"):
            await reader.create_token(TokenAsked(name="more", scope="admin"))
        await admin.revoke_token(made.token.id)
        with pytest.raises(Unauthorized, match="unknown, expired or revoked"):
            await reader.service()


async def test_without_a_token_nothing_but_the_service_answers(acs: AcsProcess) -> None:
    async with AcsClient(acs.url) as nobody:
        assert (await nobody.service()).instance
        with pytest.raises(Unauthorized, match="this needs a token with scope admin"):
            await nobody.create_token(TokenAsked(name="x", scope="admin"))


async def test_no_secret_is_stored(acs: AcsProcess) -> None:
    text = await acs.token()
    secret = text.rsplit("-", 1)[1]
    async with AcsClient(acs.url, text) as client:
        made = await client.call(
            "POST", "/v1/tokens", NewToken, TokenAsked(name="kept", scope="billing"), idempotency_key="once"
        )
    dump = ""
    for table in ("api_tokens", "idempotent_answers", "audit_log"):
        rows = await run_sql(acs.settings["PG_DSN"], f"SELECT t::text FROM hs.{table} t")
        assert rows
        dump += "\n".join(row[0] for row in rows)
    assert secret not in dump
    assert made.text.rsplit("-", 1)[1] not in dump
    assert made.text.encode().hex() not in dump


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "says"),
    [
        ("GET", "/v1/nowhere", None, 404, "not_found", "there is no GET /v1/nowhere"),
        ("PUT", "/v1/tokens", None, 405, "method_not_allowed", "takes GET, POST only"),
        ("POST", "/v1/tokens", b"{", 400, "bad_json", "not JSON"),
        ("POST", "/v1/tokens", b"{}", 400, "bad_body", "name: Field required"),
        ("POST", "/v1/tokens", b'{"name": "a", "scope": "root"}', 400, "bad_body", "scope: Input should be"),
        ("POST", "/v1/tokens", b'{"name": "a\\u0000", "scope": "admin"}', 400, "bad_body", "name"),
        ("POST", "/v1/tokens", b'{"name": "a", "scope": "admin", "x": 1}', 400, "bad_body", "x: Extra"),
        (
            "POST",
            "/v1/tokens",
            b'{"name": "a", "scope": "tenant-admin"}',
            400,
            "bad_scope",
            "names its tenant",
        ),
        (
            "POST",
            "/v1/tokens",
            b'{"name": "a", "scope": "admin", "tenant": 1}',
            400,
            "bad_scope",
            "names none",
        ),
        (
            "POST",
            "/v1/tokens",
            b'{"name": "a", "scope": "tenant-admin", "tenant": 99}',
            409,
            "conflict",
            "does not exist here",
        ),
        (
            "POST",
            "/v1/tokens",
            b'{"name": "a", "scope": "admin", "expires_at": "2001-01-01T00:00:00Z"}',
            400,
            "bad_expiry",
            "has passed",
        ),
        ("POST", "/v1/tokens", b"x" * 300_000, 400, "body_too_large", "262144 bytes"),
        ("DELETE", "/v1/tokens/9999", None, 404, "not_found", "there is no token 9999"),
        ("DELETE", "/v1/tokens/-1", None, 404, "not_found", "there is no token"),
        ("DELETE", "/v1/tokens/99999999999999999999", None, 404, "not_found", "there is no token"),
        ("GET", "/v1/tokens?limit=0", None, 400, "bad_query", "limit"),
        ("GET", "/v1/tokens?limit=5&limit=6", None, 400, "bad_query", "twice"),
        ("GET", "/v1/tokens?cursor=x", None, 400, "bad_cursor", "there is no page"),
        ("GET", "/v1/service?x=1", None, 400, "bad_query", "takes no query"),
    ],
)
async def test_bad_calls_are_told_what_is_wrong(
    acs: AcsProcess,
    admin: AcsClient,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    code: str,
    says: str,
) -> None:
    token = await acs.token()
    async with httpx.AsyncClient(base_url=acs.url) as http:
        answer = await http.request(method, path, content=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["status"]) == (code, status)
    assert says in problem["detail"]


async def test_lists_come_in_pages(admin: AcsClient) -> None:
    for number in range(5):
        await admin.create_token(TokenAsked(name=f"page {number}", scope="billing"))
    everything = [token.id async for token in admin.tokens()]
    small = [token.id async for token in admin.pages("/v1/tokens", type(await _any(admin)), {"limit": 2})]
    assert small == everything
    assert len(everything) >= 5
    assert everything == sorted(everything)


async def _any(admin: AcsClient):
    async for token in admin.tokens():
        return token


async def test_a_call_with_an_idempotency_key_happens_once(acs: AcsProcess, admin: AcsClient) -> None:
    asked = TokenAsked(name="only one", scope="billing")

    async def make(body: TokenAsked = asked, client: AcsClient = admin) -> NewToken | HsError:
        try:
            return await client.call("POST", "/v1/tokens", NewToken, body, idempotency_key="k1")
        except HsError as error:
            return error

    answers = await asyncio.gather(*(make() for _ in range(8)))
    made = {a.token.id for a in answers if isinstance(a, NewToken)}
    assert len(made) == 1
    assert all(a.code == "idempotency_key_busy" for a in answers if isinstance(a, HsError))
    again = await make()
    assert isinstance(again, NewToken)
    assert {again.token.id} == made
    other = await make(TokenAsked(name="another", scope="billing"))
    assert isinstance(other, Conflict)
    assert other.code == "idempotency_key_reused"
    # Another caller's key of the same text is another key.
    async with acs.client() as second:
        theirs = await make(client=second)
        assert isinstance(theirs, NewToken)
        assert {theirs.token.id} != made


async def test_a_refused_call_may_be_made_again_under_its_key(admin: AcsClient) -> None:
    wrong = TokenAsked(name="x", scope="tenant-admin")
    for _ in range(2):
        with pytest.raises(BadRequest, match="names its tenant"):
            await admin.call("POST", "/v1/tokens", NewToken, wrong, idempotency_key="k2")


async def test_a_token_that_calls_too_often_is_told_when_to_come_again(pg_server: str) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        AcsProcess(dsn, settings={"HS_ACS__REQUESTS_PER_MINUTE": "5"}) as acs,
        acs.client() as client,
    ):
        for _ in range(5):
            await client.service()
        with pytest.raises(RateLimited, match="this token has made too many calls"):
            await client.service()
        async with acs.client() as other:
            await other.service()


async def test_guessing_tokens_is_stopped(pg_server: str) -> None:
    async with fresh_database(pg_server) as dsn, AcsProcess(dsn) as acs:
        async with httpx.AsyncClient(base_url=acs.url) as http:
            statuses = [
                (await http.get("/v1/tokens", headers={"Authorization": "Bearer nonsense"})).status_code
                for _ in range(GUESSES_PER_MINUTE + 3)
            ]
        assert statuses[:GUESSES_PER_MINUTE] == [401] * GUESSES_PER_MINUTE
        assert set(statuses[GUESSES_PER_MINUTE:]) == {429}


def test_buckets_fill_evenly_and_are_bounded() -> None:
    buckets = Buckets(max_buckets=2)
    for _ in range(60):
        assert buckets.try_take("a", 60, 0.0) == 0.0
    assert buckets.try_take("a", 60, 0.0) == pytest.approx(1.0)
    assert buckets.wait_s("a", 120, 0.0) == pytest.approx(0.5), "twice as many a minute fill twice as fast"
    assert buckets.wait_s("a", 60, 1.0) == 0.0
    buckets.take("b", 60, 1.0)
    buckets.take("c", 60, 1.0)
    for _ in range(60):
        assert buckets.try_take("a", 60, 1.0) == 0.0, "whose was unused for longest is forgotten"


def test_limits_speak_of_what_they_limit() -> None:
    limits = RateLimits(per_token=1, clock=lambda: 0.0)
    limits.check_token(1)
    with pytest.raises(RateLimited, match="this token"):
        limits.check_token(1)
    limits.check_token(2)


async def test_the_description_names_every_operation(acs: AcsProcess) -> None:
    async with httpx.AsyncClient(base_url=acs.url) as http:
        described = (await http.get("/v1/openapi.json")).json()
        page = (await http.get("/v1/docs")).text
    assert described["openapi"] == "3.1.0"
    assert set(described["paths"]["/v1/tokens"]) == {"get", "post"}
    for path in described["paths"]:
        assert path in page
    refs = set()

    def walk(part: object) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                refs.add(part["$ref"].removeprefix("#/components/schemas/"))
            for value in part.values():
                walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(described)
    assert refs <= set(described["components"]["schemas"])


async def test_commands_make_list_and_revoke_tokens(acs: AcsProcess) -> None:
    made = parsed(await acs.shell("tokens", "create", "--scope", "billing", "bills", "-o", "json"))
    assert made["text"].startswith("hskey-api-")
    listed = parsed(await acs.shell("tokens", "list", "-o", "json"))
    assert made["id"] in {token["id"] for token in listed}
    assert made["text"] not in json.dumps(listed)
    assert parsed(await acs.shell("tokens", "revoke", str(made["id"]), "--yes", "-o", "json"))["revoked_at"]
    refused = await acs.shell("tokens", "create", "--scope", "tenant-admin", "who")
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "names its tenant" in refused.err


async def test_one_of_two_leads_and_the_other_follows_when_it_dies(pg_server: str) -> None:
    async with (
        fresh_database(pg_server) as dsn,
        AcsProcess(dsn) as one,
        AcsClient(one.url) as first,
        AcsProcess(dsn, secret_key_file=one.secret_key_file) as two,
        AcsClient(two.url) as second,
    ):

        async def one_leads() -> bool:
            return (await first.service()).leads

        await eventually(one_leads, "the first leads")
        assert not (await second.service()).leads
        await one.kill()

        async def two_leads() -> bool:
            return (await second.service()).leads

        await eventually(two_leads, "the second leads")


async def test_a_database_that_is_away_is_said_and_comes_back(acs: AcsProcess) -> None:
    async with AcsClient(f"http://127.0.0.1:{free_port()}") as nobody:
        with pytest.raises(Unavailable, match="does not answer"):
            await nobody.service()
    with pytest.raises(NotFound):
        async with acs.client() as client:
            await client.revoke_token(123456)


async def test_it_warns_of_its_own_settings_only(acs: AcsProcess) -> None:
    assert "warning: server_url" not in acs.log()
