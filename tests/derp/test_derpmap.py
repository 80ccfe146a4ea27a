"""DERP map: what is read, what is refused by name, merge order, sources that fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from app import derpmap
from app.derpmap import DerpMapPart
from app.errors import ConfigError, Unavailable
from app.model import DerpRegion
from node import derpmap as sources
from node.derpmap import DerpMapSource

HEADSCALE_YAML = """
regions:
  1: null
  900:
    regionid: 900
    regioncode: custom
    regionname: My Region
    nodes:
      - name: 900a
        regionid: 900
        hostname: myderp.mydomain.no
        ipv4: 198.51.100.33
        ipv6: 2604:a880:400:d1::828:b001
        stunport: 0
        stunonly: false
        derpport: 0
"""


def region(region_id: int, name: str = "", **fields: Any) -> dict[str, Any]:
    node = {"Name": name or f"{region_id}a", "RegionID": region_id, "HostName": "relay.example", **fields}
    return {"RegionID": region_id, "RegionCode": f"r{region_id}", "Nodes": [node]}


def document(*regions: dict[str, Any], removed: Sequence[int] = ()) -> dict[str, Any]:
    table: dict[str, Any] = {str(each["RegionID"]): each for each in regions}
    return {"Regions": {**table, **{str(key): None for key in removed}}}


def part(source: str, *regions: dict[str, Any], removed: Sequence[int] = ()) -> DerpMapPart:
    return derpmap.parse_map(document(*regions, removed=removed), source)


# pure part


def test_headscale_yaml_is_read() -> None:
    import yaml

    read = derpmap.parse_map(yaml.safe_load(HEADSCALE_YAML), "file")
    assert read.regions == {
        1: None,
        900: {
            "RegionID": 900,
            "RegionCode": "custom",
            "RegionName": "My Region",
            "Nodes": [
                {
                    "Name": "900a",
                    "RegionID": 900,
                    "HostName": "myderp.mydomain.no",
                    "IPv4": "198.51.100.33",
                    "IPv6": "2604:a880:400:d1::828:b001",
                }
            ],
        },
    }


def test_minimal_map_is_written_as_clients_took_it() -> None:
    pin = "sha256-raw:" + "ab" * 32
    node = {"CertName": pin, "IPv4": "127.0.0.1", "IPv6": "none", "STUNPort": 3478, "DERPPort": 8443}
    lo = {**region(900, **node), "RegionName": "Loop"}
    lo["Nodes"][0]["HostName"] = "127.0.0.1"
    written = derpmap.encode(derpmap.merge_all([part("x", lo)]))
    assert json.loads(written) == {"omitDefaultRegions": True, "Regions": {"900": lo}}


def test_every_field_survives() -> None:
    node = {
        "Name": "7a",
        "RegionID": 7,
        "HostName": "h.example",
        "CertName": "other.example",
        "IPv4": "192.0.2.1",
        "IPv6": "2001:db8::1",
        "STUNPort": -1,
        "STUNOnly": True,
        "DERPPort": 444,
        "InsecureForTests": True,
        "STUNTestIP": "192.0.2.2",
        "CanPort80": True,
    }
    whole = {
        "RegionID": 7,
        "RegionCode": "x",
        "RegionName": "X",
        "Latitude": 1.5,
        "Longitude": -2,
        "Avoid": True,
        "NoMeasureNoHome": True,
        "Nodes": [node],
    }
    scored = {"Regions": {"7": whole}, "HomeParams": {"RegionScore": {"7": 0.5, "8": 2}}}
    written = json.loads(derpmap.encode(derpmap.merge_all([derpmap.parse_map(scored, "x")])))
    assert written == {
        "Regions": {"7": whole},
        "HomeParams": {"RegionScore": {"7": 0.5}},
        "omitDefaultRegions": True,
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ([], "must be a mapping"),
        ("text", "must be a mapping"),
        (None, "must have `regions`"),
        ({}, "must have `regions`"),
        ({"Regions": []}, "must be a mapping"),
        ({"Regions": {"0": None}}, "region id '0'"),
        ({"Regions": {"65536": None}}, "region id '65536'"),
        ({"Regions": {"x": None}}, "region id 'x'"),
        ({"Regions": {True: None}}, "region id 'True'"),
        ({"Regions": {900: None, "900": None}}, "twice"),
        ({"Regions": {}, "regions": {}}, "twice"),
        ({"Regions": {str(i): None for i in range(1, derpmap.MAX_REGIONS + 2)}}, "more than 1000"),
        ({"Regions": {"900": []}}, "region 900: must be a mapping"),
        ({"Regions": {"901": region(900)}}, "region 901: RegionID is 900"),
        ({"Regions": {"900": {**region(900), "RegionID": "900"}}}, "RegionID has a value of the wrong type"),
        ({"Regions": {"900": {**region(900), "RegionCode": ""}}}, "RegionCode is missing"),
        ({"Regions": {"900": {**region(900), "Avoid": "yes"}}}, "Avoid has a value of the wrong type"),
        ({"Regions": {"900": {**region(900), "Latitude": float("nan")}}}, "Latitude"),
        ({"Regions": {"900": {**region(900), "Latitude": 10**400}}}, "Latitude"),
        ({"Regions": {"900": {**region(900), "RegionName": "a\x1b[2J"}}}, "RegionName"),
        ({"Regions": {"900": {**region(900), "Nodes": None}}}, "Nodes must list"),
        ({"Regions": {"900": {**region(900), "Nodes": []}}}, "Nodes must list"),
        ({"Regions": {"900": {**region(900), "Nodes": {}}}}, "Nodes must list"),
        ({"Regions": {"900": {**region(900), "Nodes": [None]}}}, r"Nodes\[0\]: Name is missing"),
        ({"Regions": {"900": {**region(900), "Nodes": ["x"]}}}, r"Nodes\[0\]: must be a mapping"),
        ({"Regions": {"900": {**region(900), "Nodes": region(900)["Nodes"] * 2}}}, "same Name"),
        ({"Regions": {"900": {**region(900), "Nodes": region(900)["Nodes"] * 65}}}, "1 to 64"),
        ({"Regions": {"900": region(900, RegionID=901)}}, "RegionID is 901, not 900"),
        ({"Regions": {"900": region(900, HostName="")}}, "HostName ''"),
        ({"Regions": {"900": region(900, HostName="a b")}}, "HostName 'a b'"),
        ({"Regions": {"900": region(900, HostName="http://x")}}, "HostName"),
        ({"Regions": {"900": region(900, HostName="a" * 254)}}, "HostName"),
        ({"Regions": {"900": region(900, Name="x" * 256)}}, "Name has a value"),
        ({"Regions": {"900": region(900, IPv4="::1")}}, "IPv4 '::1'"),
        ({"Regions": {"900": region(900, IPv4="10.0.0")}}, "IPv4 '10.0.0'"),
        ({"Regions": {"900": region(900, IPv6="127.0.0.1")}}, "IPv6"),
        ({"Regions": {"900": region(900, STUNTestIP="x")}}, "STUNTestIP"),
        ({"Regions": {"900": region(900, DERPPort=65536)}}, "DERPPort 65536"),
        ({"Regions": {"900": region(900, DERPPort=True)}}, "DERPPort has a value"),
        ({"Regions": {"900": region(900, STUNPort=-2)}}, "STUNPort -2"),
        ({"Regions": {"900": region(900, CertName="sha256-raw:00")}}, "CertName"),
        ({"Regions": {}, "HomeParams": {"RegionScore": {"900": 0}}}, "RegionScore"),
        ({"Regions": {}, "HomeParams": {"RegionScore": {"900": "1"}}}, "RegionScore"),
    ],
)
def test_wrong_maps_are_refused_by_name(change: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        derpmap.parse_map(change, "there.yaml")
    assert caught.value.message.startswith("there.yaml: ")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], {}),
        ([part("a", region(1), region(2))], {1: "a", 2: "a"}),
        ([part("a", region(1)), part("b", region(2))], {1: "a", 2: "b"}),
        ([part("a", region(1)), part("b", region(1))], {1: "b"}),
        ([part("a", region(1), region(2)), part("b", removed=[1])], {2: "a"}),
        ([part("a", region(1)), part("b", removed=[1]), part("c", region(1))], {1: "c"}),
        ([part("a", removed=[1]), part("b", region(1))], {1: "b"}),
        ([part("a", region(1)), part("b", removed=[9])], {1: "a"}),
        ([part("a", region(1, "x")), part("b", region(2, "x"), removed=[1])], {2: "b"}),
    ],
)
def test_merge(parts: list[DerpMapPart], expected: Mapping[int, str]) -> None:
    assert derpmap.merge_all(parts).sources == expected


def test_relay_names_are_unique_in_the_map() -> None:
    with pytest.raises(ConfigError, match=r"b: region 2 and region 1 of a both have a relay named 'x'"):
        derpmap.merge_all([part("a", region(1, "x")), part("b", region(2, "x"))])


@given(st.permutations([1, 2, 3, 10, 900]))
@settings(max_examples=30, deadline=None)
def test_equal_maps_are_equal_bytes(order: list[int]) -> None:
    written = derpmap.encode(derpmap.merge_all([part(f"s{i}", region(i)) for i in order]))
    assert written == derpmap.encode(derpmap.merge_all([part("a", *map(region, sorted(order)))]))
    assert list(json.loads(written)["Regions"]) == ["1", "2", "3", "10", "900"]


# sources


@dataclass
class Site:
    url: str = ""
    status: int = 200
    body: bytes = b""
    hang: bool = False

    async def answer(self, request: web.Request) -> web.Response:
        if self.hang:
            await asyncio.Event().wait()
        return web.Response(status=self.status, body=self.body)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    it = Site(body=orjson.dumps(document(region(1))))
    app = web.Application()
    app.router.add_get("/map", it.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    it.url = f"http://127.0.0.1:{runner.addresses[0][1]}/map"
    yield it
    await runner.cleanup()


class Rows:
    """Own regions as the database would give them."""

    def __init__(self, *rows: DerpRegion) -> None:
        self.rows: Sequence[DerpRegion] = rows
        self.is_away = False

    async def __call__(self) -> Sequence[DerpRegion]:
        if self.is_away:
            raise Unavailable("the database does not answer")
        return self.rows


def row(region_id: int, content: object = None) -> DerpRegion:
    return DerpRegion(region_id, "c1", orjson.dumps(content or region(region_id)))


def region_ids(source: DerpMapSource) -> list[int]:
    return [int(key) for key in json.loads(source.current)["Regions"]]


async def test_all_sources_in_order(site: Site, tmp_path: Path) -> None:
    yaml_file, json_file = tmp_path / "a.yaml", tmp_path / "b.json"
    yaml_file.write_text(HEADSCALE_YAML)
    json_file.write_bytes(orjson.dumps(document(region(5), region(900))))
    site.body = orjson.dumps(document(region(1), region(2)))
    source = DerpMapSource([site.url], [yaml_file, json_file], Rows(row(901), row(7)))
    assert source.current == b""
    assert await source.refresh() is True
    assert region_ids(source) == [2, 5, 7, 900, 901]
    assert source.problems == ()
    assert await source.refresh() is False


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b""), (200, b"no json"), (200, b"{}"), (200, b" " * (sources.MAX_MAP_BYTES + 1)), (404, b"")],
)
async def test_failing_url_keeps_its_last_map(site: Site, status: int, body: bytes) -> None:
    own = Rows(row(900))
    source = DerpMapSource([site.url], own_regions=own)
    await source.refresh()
    site.status, site.body = status, body
    own.rows = [row(900), row(901)]
    assert await source.refresh() is True, "the other sources go on"
    assert region_ids(source) == [1, 900, 901]
    assert len(source.problems) == 1
    assert site.url in source.problems[0]


async def test_url_that_fails_at_the_start_is_only_a_problem(site: Site) -> None:
    site.status = 500
    source = DerpMapSource([site.url], own_regions=Rows(row(900)))
    assert await source.refresh() is True
    assert len(source.problems) == 1
    site.status = 200
    assert await source.refresh() is True
    assert region_ids(source) == [1, 900]
    assert source.problems == ()


async def test_url_that_hangs_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (sources.FETCH_DEADLINE_S, sources.MAX_MAP_BYTES) == (10.0, 4 * 1024 * 1024)
    monkeypatch.setattr(sources, "FETCH_DEADLINE_S", 0.2)
    site.hang = True
    source = DerpMapSource([site.url], own_regions=Rows(row(900)))
    assert await source.refresh()
    assert site.url in source.problems[0]


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://127.0.0.1/x", "http://127.0.0.1:1/", "http://[/"])
async def test_odd_urls_are_problems(url: str) -> None:
    source = DerpMapSource([url], own_regions=Rows(row(900)))
    assert await source.refresh()
    assert len(source.problems) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.yaml", b"regions: [\n"),
        ("a.yaml", b"\xff\xfe\x00"),
        ("a.yaml", b""),
        ("a.json", b"{"),
        ("a.yaml", b"regions: {900: {regionid: 901}}"),
        ("a.yaml", b"[" * 5000),
        ("a.yaml", b"#" * (sources.MAX_MAP_BYTES + 1)),
        ("none.yaml", None),
    ],
)
async def test_wrong_file_stops_the_start_and_is_named(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    source = DerpMapSource(files=[path], own_regions=Rows(row(900)))
    with pytest.raises(ConfigError, match=name):
        await source.refresh()
    assert source.current == b""


async def test_file_that_breaks_later_keeps_its_last_map(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(HEADSCALE_YAML)
    source = DerpMapSource(files=[path])
    assert await source.refresh()
    path.write_text("regions: nonsense")
    assert not await source.refresh()
    assert region_ids(source) == [900]
    assert "a.yaml" in source.problems[0]


async def test_yaml_aliases_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    path.write_text(f"a0: &a0 [x]\n{levels}regions: *a11\n")
    with pytest.raises(ConfigError, match=r"bomb\.yaml"):
        await DerpMapSource(files=[path]).refresh()


async def test_empty_map_refuses_the_start_with_a_sentence(site: Site) -> None:
    for source in (DerpMapSource(), DerpMapSource(own_regions=Rows())):
        with pytest.raises(ConfigError, match=r"no region: without one .* `Starting`"):
            await source.refresh()
    site.status = 500
    with pytest.raises(ConfigError, match=r"no region \(.*500"):
        await DerpMapSource([site.url]).refresh()


async def test_map_that_becomes_empty_is_kept() -> None:
    own = Rows(row(900))
    source = DerpMapSource(own_regions=own)
    assert await source.refresh()
    own.rows = []
    assert not await source.refresh()
    assert region_ids(source) == [900]
    assert "no region" in source.problems[0]


async def test_own_regions_come_and_go() -> None:
    own = Rows(row(900), row(901))
    source = DerpMapSource(own_regions=own)
    await source.refresh()
    own.rows = [row(901)]
    assert await source.refresh()
    assert region_ids(source) == [901]


async def test_one_bad_own_region_never_blanks_the_map() -> None:
    own = Rows(
        row(900), DerpRegion(901, "c2", b"{"), row(902, {"RegionID": 5}), row(903, region(903, "900a"))
    )
    source = DerpMapSource(own_regions=own)
    assert await source.refresh()
    assert region_ids(source) == [900]
    assert len(source.problems) == 3
    assert all("own region 90" in problem for problem in source.problems)


async def test_database_away_keeps_the_own_regions() -> None:
    own = Rows(row(900))
    source = DerpMapSource(own_regions=own)
    await source.refresh()
    own.is_away = True
    assert not await source.refresh()
    assert region_ids(source) == [900]
    first = Rows()
    first.is_away = True
    with pytest.raises(Unavailable, match="database"):
        await DerpMapSource(own_regions=first).refresh()


async def test_own_regions_alone_are_read_without_asking_a_url(site: Site) -> None:
    """At a takeover nobody waits for a distant server."""
    own = Rows(row(900))
    source = DerpMapSource([site.url], own_regions=own)
    await source.refresh()
    site.status = 500
    own.rows = [row(900), row(901)]
    assert await source.refresh(own_only=True)
    assert region_ids(source) == [1, 900, 901]
    assert source.problems == ()


async def test_concurrent_refreshes_wait_for_each_other(site: Site) -> None:
    source = DerpMapSource([site.url])
    assert sorted(await asyncio.gather(*(source.refresh() for _ in range(3)))) == [False, False, True]
