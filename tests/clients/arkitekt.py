"""Runs inside the namespace: several arkitekt-mesh nodes in one process, and one fetch by each.

Arguments: control URL, auth key, state directory, number of nodes, name of the peer to fetch. Prints one
JSON line per node: its addresses and the body fetched.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import sys
from pathlib import Path

import arkitekt_mesh

JOIN_DEADLINE_S = 20.0
FETCH_DEADLINE_S = 10.0


def fetch(address: str) -> str:
    host, _, port = address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=FETCH_DEADLINE_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


async def join(control_url: str, auth_key: str, home: Path, number: int) -> arkitekt_mesh.Node:
    state = home / str(number)
    state.mkdir(parents=True)
    return await arkitekt_mesh.Node.start(
        str(state), f"ark-{number}", control_url=control_url, auth_key=auth_key, timeout=JOIN_DEADLINE_S
    )


async def main(control_url: str, auth_key: str, home: str, count: str, peer: str) -> None:
    nodes = await asyncio.gather(*(join(control_url, auth_key, Path(home), n) for n in range(int(count))))
    for node in nodes:
        local = await node.forward(peer, 80)
        body = await asyncio.to_thread(fetch, local)
        print(json.dumps({"addresses": node.addresses, "body": body}), flush=True)
    for node in nodes:
        node.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
