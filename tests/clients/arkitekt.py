"""Runs inside the namespace: many arkitekt-mesh nodes in one process, some of which fetch a page.

Arguments: control URL, auth key, state directory, number of nodes, name of the peer to fetch, number of nodes
that fetch, number of nodes that start at the same time (else STARTING). Prints a JSON line for each node with
its addresses, one for each fetch, one with figures. Then answers each line of its input, a list of names as
JSON, with those of them that each node does not know; stays connected until its input ends.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import arkitekt_mesh
import psutil

JOIN_DEADLINE_S = 60.0
FETCH_DEADLINE_S = 10.0
#: Nodes that start at the same time: each waits for answers most of the time.
STARTING = 10


def fetch(address: str, target: str = "/") -> str:
    """A page by way of a local port of a node; `target` is a whole URL where that is an HTTP proxy."""
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=FETCH_DEADLINE_S)
    try:
        connection.request("GET", target)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def say(**members: object) -> None:
    print(json.dumps(members), flush=True)


async def join(control_url: str, auth_key: str, home: Path, number: int) -> arkitekt_mesh.Node:
    state = home / str(number)
    state.mkdir(parents=True)
    return await arkitekt_mesh.Node.start(
        str(state), f"ark-{number}", control_url=control_url, auth_key=auth_key, timeout=JOIN_DEADLINE_S
    )


async def unknown(node: arkitekt_mesh.Node, number: int, names: list[str]) -> list[str]:
    """Those of the names, besides its own, that are no peer in the netmap of a node."""
    found = []
    for name in names:
        if name == f"ark-{number}":
            continue
        try:
            await node.forward(name, 80)
        except arkitekt_mesh.MeshError as error:
            if "no peer named" not in str(error):
                raise
            found.append(name)
    return found


async def main(
    control_url: str,
    auth_key: str,
    home: str,
    count: str,
    peer: str,
    fetches: str,
    starting: str = str(STARTING),
) -> None:
    process = psutil.Process()
    before_bytes, began = process.memory_info().rss, time.monotonic()
    places = asyncio.Semaphore(int(starting))

    async def start(number: int) -> arkitekt_mesh.Node:
        async with places:
            node = await join(control_url, auth_key, Path(home), number)
        say(joined=number, addresses=node.addresses)
        return node

    nodes = await asyncio.gather(*(start(number) for number in range(int(count))))
    joined_s = time.monotonic() - began
    for number in range(int(fetches)):
        forwarded = await nodes[number].forward(peer, 80)
        proxy = urlsplit(nodes[-1 - number].proxy_url).netloc
        say(
            fetched=number,
            forwarded=await asyncio.to_thread(fetch, forwarded),
            proxied=await asyncio.to_thread(fetch, proxy, f"http://{peer}/"),
        )
    say(joined_s=joined_s, grown_bytes=process.memory_info().rss - before_bytes)
    while line := await asyncio.to_thread(sys.stdin.readline):
        names = json.loads(line)
        say(unknown={number: await unknown(node, number, names) for number, node in enumerate(nodes)})
    for node in nodes:
        node.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
