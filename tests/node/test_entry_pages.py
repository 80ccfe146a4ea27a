"""The pages on the clients' address and on the metrics address, plain and over TLS, of a real process."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import httpx
import orjson
import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.keys import node_key_text, parse_machine_key
from node.web import MAX_VERIFY_BYTES
from tests.node.kit import Recorder, joined, own_tenant
from tests.node.support import DEADLINE_S, ServeProcess, fresh_database, run_sql


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for the loopback: (certificate file, key file)."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(private, hashes.SHA256())
    )
    cert_path, key_path = directory / "tls.crt", directory / "tls.key"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_path, key_path


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["http", "https"])
async def serve(
    request: pytest.FixtureRequest, pg_server: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServeProcess]:
    settings: dict[str, str] = {}
    directory = tmp_path_factory.mktemp("tls")
    async with fresh_database(pg_server) as dsn:
        process = ServeProcess(dsn, settings=settings)
        if request.param == "https":
            cert_path, key_path = make_certificate(directory)
            process.url = process.url.replace("http:", "https:")
            process.env |= {
                "HS_TLS_CERT_PATH": str(cert_path),
                "HS_TLS_KEY_PATH": str(key_path),
                "HS_SERVER_URL": process.url,
            }
        await process.start(wait=False)
        async with asyncio.timeout(30):
            while "To let a device in" not in process.log():
                assert process.returncode is None, process.log()
                await asyncio.sleep(0.02)
        try:
            yield process
        finally:
            assert await process.stop() == 0


def trust(serve: ServeProcess) -> ssl.SSLContext | None:
    path = serve.env.get("HS_TLS_CERT_PATH")
    return None if path is None else ssl.create_default_context(cafile=path)


@pytest.fixture
async def web(serve: ServeProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=serve.url, verify=trust(serve) or False, timeout=10, trust_env=False
    ) as client:
        yield client


async def test_the_key_page(web: httpx.AsyncClient) -> None:
    answer = await web.get("/key?v=130")
    keys = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert set(keys) == {"legacyPublicKey", "publicKey"}
    assert parse_machine_key(keys["publicKey"]) != parse_machine_key(keys["legacyPublicKey"])
    assert (await web.get("/key?v=39")).json()["publicKey"] == keys["publicKey"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "capability version"),
        ("?v=", "capability version"),
        ("?v=abc", "capability version"),
        ("?v=-5", "capability version"),
        ("?v=%C2%B2", "capability version"),
        ("?v=" + "9" * 5000, "capability version"),
        ("?v=38", "1.80 or newer"),
        ("?v=0", "1.80 or newer"),
    ],
)
async def test_the_key_page_without_a_usable_version(
    web: httpx.AsyncClient, query: str, sentence: str
) -> None:
    answer = await web.get("/key" + query)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    assert sentence in answer.json()["detail"]


async def test_health_version_and_security_headers(web: httpx.AsyncClient, serve: ServeProcess) -> None:
    for base in ("", serve.metrics_url):
        health = await web.get(base + "/health")
        assert (health.status_code, health.headers["content-type"]) == (200, "application/health+json")
        assert health.json() == {"status": "pass", "cluster_id": "default", "state": "owner"}
        version = (await web.get(base + "/version")).json()
        assert version["cluster_id"] == "default"
        assert version["version"].startswith("v")
        for name, value in (("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")):
            assert health.headers[name] == value
    assert (await web.get("/")).status_code == 200
    assert "Disallow: /" in (await web.get("/robots.txt")).text


@pytest.mark.parametrize(
    "path", ["/machine/map", "/machine/register", "/machine/whoami", "/c2n/x", "/metrics"]
)
async def test_what_belongs_elsewhere_is_not_found(web: httpx.AsyncClient, path: str) -> None:
    assert (await web.get(path)).status_code == 404
    assert (await web.post(path, content=b"{}")).status_code == 404


async def test_metrics_are_on_their_address_only(web: httpx.AsyncClient, serve: ServeProcess) -> None:
    answer = await web.get(serve.metrics_url + "/metrics")
    assert answer.status_code == 200
    series = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    assert len(series) > 20
    assert [line for line in series if 'cluster_id="default"' not in line] == []
    assert (await web.get(serve.metrics_url + "/key?v=130")).status_code == 404
    assert (await web.post(serve.metrics_url + "/verify", content=b"{}")).status_code == 404


async def test_verify_knows_devices_of_all_clusters_and_nobody_else(
    web: httpx.AsyncClient, serve: ServeProcess
) -> None:
    async with own_tenant(serve.dsn) as tenant:
        key = await tenant.auth_key()
        async with Recorder(serve.url, key, ssl=trust(serve)) as device:
            await joined(device)
            question = {"NodePublic": node_key_text(device.node_key), "Source": "192.0.2.1"}
            assert (await web.post("/verify", json=question)).json() == {"Allow": True}
            del question["Source"]
            assert (await web.post("/verify", json=question)).json() == {"Allow": True}
            stranger = {"NodePublic": "nodekey:" + "12" * 32}
            assert (await web.post("/verify", json=stranger)).json() == {"Allow": False}
            await tenant.scoped.delete_device(tenant.tenant.id, device.id)
            async with asyncio.timeout(DEADLINE_S):
                while (await web.post("/verify", json=question)).json() != {"Allow": False}:
                    continue


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "not a DERPAdmitClientRequest"),
        (b"nonsense", "not a DERPAdmitClientRequest"),
        (b"[]", "not a DERPAdmitClientRequest"),
        (b"{}", "not a DERPAdmitClientRequest"),
        (b'{"NodePublic":5}', "not a DERPAdmitClientRequest"),
        (b'{"NodePublic":"nodekey:12"}', "node key"),
        (b'{"NodePublic":"mkey:' + b"12" * 32 + b'"}', "node key"),
        (b'{"NodePublic":"' + b"x" * MAX_VERIFY_BYTES + b'"}', f"at most {MAX_VERIFY_BYTES} bytes"),
    ],
)
async def test_verify_refuses_what_it_cannot_read(web: httpx.AsyncClient, body: bytes, sentence: str) -> None:
    answer = await web.post("/verify", content=body)
    assert answer.status_code == 400
    assert sentence in answer.json()["detail"].replace("nodekey", "node key")
    assert (await web.get("/verify")).status_code == 405


async def test_verify_reads_a_body_that_comes_in_pieces(web: httpx.AsyncClient, serve: ServeProcess) -> None:
    body = orjson.dumps({"NodePublic": "nodekey:" + "12" * 32, "Source": "192.0.2.1"})
    secure = trust(serve)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", serve.port, ssl=secure, server_hostname="localhost" if secure else None
    )
    writer.write(b"POST /verify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
    writer.write(body[:20])
    await writer.drain()
    # The first piece is on its way before the rest: another request and its answer lie in between.
    assert (await web.get("/robots.txt")).status_code == 200
    writer.write(body[20:])
    async with asyncio.timeout(DEADLINE_S):
        head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0]
    writer.close()


@pytest.mark.parametrize("websocket", [False, True])
async def test_a_full_join_this_way(serve: ServeProcess, websocket: bool) -> None:
    secure = trust(serve)
    async with own_tenant(serve.dsn) as tenant:
        key = await tenant.auth_key()
        async with (
            Recorder(serve.url, key, ssl=secure) as first,
            Recorder(serve.url, key, ssl=secure, websocket=websocket) as second,
        ):
            await joined(first)
            await joined(second)
            await first.sees(peers=1)
            await second.update(endpoints=["192.0.2.1:1"], home_derp=900)
            await first.sees(second.id, Endpoints=["192.0.2.1:1"], HomeDERP=900, Online=True)
            second.drop()
            await second.wait_for(lambda n: second.polls == 2 and len(n.peers) == 1, DEADLINE_S)
            assert (first.polls, first.violations, second.violations) == (1, [], [])


async def test_a_relay_finds_the_verify_page(serve: ServeProcess) -> None:
    """The region that the process published leads to a relay that admits (see test_serve_derp.py)."""
    rows = await run_sql(serve.dsn, "SELECT region::text FROM derp_regions")
    region = orjson.loads(rows[0][0])
    assert region["Nodes"][0]["CertName"].startswith("sha256-raw:")
