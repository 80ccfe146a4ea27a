"""The DERP map of this deployment, from its sources in order: URLs, files, own regions.

Each source that fails keeps what it last gave, so that one broken source neither empties the map
nor holds up the others. Reading, checking and merging proper are pure (app.derpmap).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import orjson
import yaml

from app import derpmap, log
from app.derpmap import DerpMap, DerpMapPart
from app.errors import ConfigError, HsError, Unavailable
from app.model import DerpRegion

#: From the request to the last byte of a map, redirects included.
FETCH_DEADLINE_S = 10.0
MAX_REDIRECTS = 5
#: Largest map of one URL or file.
MAX_MAP_BYTES = 4 * 1024 * 1024

#: Reads the own regions of all clusters from the database; has its own deadline.
OwnRegions = Callable[[], Awaitable[Sequence[DerpRegion]]]

_log = log.get("derpmap")


class DerpMapSource:
    """`current` is the map as canonical JSON; equal maps are equal bytes. Empty before the first refresh."""

    def __init__(
        self, urls: Sequence[str] = (), files: Sequence[Path] = (), own_regions: OwnRegions | None = None
    ) -> None:
        self._urls = tuple(urls)
        self._files = tuple(files)
        self._own_regions = own_regions
        self._last_good: dict[str, DerpMapPart] = {}
        self._own_names: tuple[str, ...] = ()
        self._current = b""
        self._problems: tuple[str, ...] = ()
        self._lock = asyncio.Lock()

    @property
    def current(self) -> bytes:
        return self._current

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each source that failed at the last refresh."""
        return self._problems

    async def refresh(self, *, own_only: bool = False) -> bool:
        """Reads all sources, or only the own regions; whether `current` changed.

        The first time a wrong file, a database that gives no own regions, or a map without any region
        raises (ConfigError, Unavailable); a URL that fails is only a problem. Later nothing raises and
        the old map stays.
        """
        async with self._lock:
            problems: dict[str, HsError] = {}
            if own_only and self._current:
                sources = [*self._urls, *map(str, self._files)]
                parts = [self._last_good[source] for source in sources if source in self._last_good]
            else:
                parts = [*await self._read_urls(problems), *await self._read_files(problems)]
            parts += await self._read_own(problems)
            merged = DerpMap()
            for part in parts:
                try:
                    merged = derpmap.merge(merged, part)
                except ConfigError as error:
                    problems[part.source] = error
            is_first = not self._current
            if is_first:
                self._refuse_start(problems, merged)
            elif not merged.regions:
                problems["the DERP map"] = _empty()
            self._report(problems)
            if not merged.regions:
                return False
            encoded = derpmap.encode(merged)
            is_changed = encoded != self._current
            self._current = encoded
            return is_changed

    def _refuse_start(self, problems: dict[str, HsError], merged: DerpMap) -> None:
        for source, error in problems.items():
            if source not in self._urls and source not in self._own_names:
                raise error
        if not merged.regions:
            raise _empty(*(error.message for error in problems.values()))

    def _report(self, problems: dict[str, HsError]) -> None:
        for source, error in problems.items():
            _log.warning("derp_map_source_failed", source=source, error=error.message)
        self._problems = tuple(error.message for error in problems.values())

    # sources

    async def _read_urls(self, problems: dict[str, HsError]) -> list[DerpMapPart]:
        results = await asyncio.gather(*(self._try(url, _fetch(url), problems) for url in self._urls))
        return [part for part in results if part is not None]

    async def _read_files(self, problems: dict[str, HsError]) -> list[DerpMapPart]:
        results = [
            await self._try(str(path), asyncio.to_thread(_read_file, path), problems) for path in self._files
        ]
        return [part for part in results if part is not None]

    async def _try(
        self, source: str, reading: Awaitable[DerpMapPart], problems: dict[str, HsError]
    ) -> DerpMapPart | None:
        try:
            part = self._last_good[source] = await reading
        except (ConfigError, Unavailable) as error:
            problems[source] = error
            return self._last_good.get(source)
        return part

    async def _read_own(self, problems: dict[str, HsError]) -> list[DerpMapPart]:
        if self._own_regions is None:
            return []
        try:
            rows = await self._own_regions()
        except Unavailable as error:
            problems["own regions"] = error
        else:
            self._forget_own(rows)
            for row in sorted(rows, key=lambda row: row.region_id):
                name = _own_name(row)
                try:
                    region = derpmap.parse_region(_decode_json(row.region, name), name, row.region_id)
                except ConfigError as error:
                    problems[name] = error
                else:
                    self._last_good[name] = DerpMapPart(name, {row.region_id: region})
        return [self._last_good[name] for name in self._own_names if name in self._last_good]

    def _forget_own(self, rows: Sequence[DerpRegion]) -> None:
        names = tuple(_own_name(row) for row in sorted(rows, key=lambda row: row.region_id))
        for gone in set(self._own_names) - set(names):
            self._last_good.pop(gone, None)
        self._own_names = names


def _own_name(row: DerpRegion) -> str:
    return f"own region {row.region_id} of cluster {row.cluster_id}"


def _empty(*reasons: str) -> ConfigError:
    because = f" ({'; '.join(reasons)})" if reasons else ""
    return ConfigError(
        f"the DERP map has no region{because}: without one clients never get beyond `Starting`. "
        "Turn the own relay on (derp.server.enabled) or name a map with regions (derp.urls, derp.paths)"
    )


async def _fetch(url: str) -> DerpMapPart:
    """A map over HTTP, JSON. Raises Unavailable, ConfigError."""
    body = bytearray()
    try:
        async with (
            asyncio.timeout(FETCH_DEADLINE_S),
            httpx.AsyncClient(
                timeout=FETCH_DEADLINE_S, follow_redirects=True, max_redirects=MAX_REDIRECTS
            ) as client,
            client.stream("GET", url) as response,
        ):
            response.raise_for_status()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_MAP_BYTES:
                    raise ConfigError(f"{url}: more than {MAX_MAP_BYTES} bytes are no DERP map")
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url}: is no URL: {error}") from error
    except TimeoutError as error:
        raise Unavailable(f"{url}: no DERP map within {FETCH_DEADLINE_S:g} s") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{url}: the DERP map cannot be fetched: {error!r}") from error
    return derpmap.parse_map(_decode_json(bytes(body), url), url)


def _read_file(path: Path) -> DerpMapPart:
    """A map in a file: JSON if it is named so, else YAML. Raises ConfigError. Blocking."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_MAP_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the DERP map cannot be read: {error.strerror}") from error
    if len(content) > MAX_MAP_BYTES:
        raise ConfigError(f"{path}: more than {MAX_MAP_BYTES} bytes are no DERP map")
    if path.suffix.lower() == ".json":
        return derpmap.parse_map(_decode_json(content, str(path)), str(path))
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: is no YAML: {' '.join(str(error).split())}") from error
    return derpmap.parse_map(document, str(path))


def _decode_json(content: bytes, source: str) -> object:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{source}: is no JSON: {error}") from error
