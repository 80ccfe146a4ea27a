"""What `hs-node health` asks: the metrics address of the server that runs with these settings."""

from __future__ import annotations

import httpx
import orjson

from app.errors import ConfigError, Refused, Unavailable
from app.listen import split_listen
from app.output import show
from app.settings import Settings

DEADLINE_S = 5.0
ANY_ADDRESS = ("", "0.0.0.0", "::")


async def ask_health(settings: Settings, output: str) -> None:
    """Prints cluster and state. Raises Unavailable when its database is away, Refused when nobody answers."""
    if not settings.metrics_listen_addr:
        raise ConfigError("metrics_listen_addr is empty: a server with these settings tells nobody how it is")
    host, port = split_listen(settings.metrics_listen_addr)
    host = "127.0.0.1" if (host or "") in ANY_ADDRESS else host
    url = f"http://{f'[{host}]' if ':' in str(host) else host}:{port}/health"
    try:
        async with httpx.AsyncClient(timeout=DEADLINE_S, trust_env=False) as client:
            answer = await client.get(url)
        found = orjson.loads(answer.content)
        row = {"cluster": found["cluster_id"], "state": found["state"], "database": found["status"]}
    except httpx.TransportError as error:
        raise Refused(f"metrics_listen_addr: no server answers at {url}", code="no_server") from error
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Refused(f"metrics_listen_addr: {url} is no control server", code="no_server") from error
    show([row], output)
    if answer.status_code != httpx.codes.OK:
        raise Unavailable("the server cannot reach its database")
