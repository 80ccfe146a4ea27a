"""Runs inside the namespace: one arkitekt-mesh node with its HTTP proxy, until stdin closes.

Arguments: control URL, auth key, state directory, name. Prints one JSON line: the proxy and its addresses.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial

import arkitekt_mesh

JOIN_DEADLINE_S = 20.0


async def main(control_url: str, auth_key: str, home: str, name: str) -> None:
    start = partial(
        arkitekt_mesh.Node.start,
        *(home, name),
        control_url=control_url,
        auth_key=auth_key,
        timeout=JOIN_DEADLINE_S,
    )
    try:
        node = await start()
    except arkitekt_mesh.MeshError as error:
        # A node that registers for the first time does not come again by itself when its connection is
        # closed, as it is by an entry that sends it to another cluster; with the same keys it is let in.
        if "stream closed" not in str(error):
            raise
        node = await start()
    print(json.dumps({"proxy": node.proxy_url, "addresses": node.addresses}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    node.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
