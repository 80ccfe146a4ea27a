"""Runs inside the namespace: one arkitekt-mesh node with its HTTP proxy, until stdin closes.

Arguments: control URL, auth key, state directory, name. Prints one JSON line: the proxy and its addresses.
"""

from __future__ import annotations

import asyncio
import json
import sys

import arkitekt_mesh

JOIN_DEADLINE_S = 20.0


async def main(control_url: str, auth_key: str, home: str, name: str) -> None:
    node = await arkitekt_mesh.Node.start(
        home, name, control_url=control_url, auth_key=auth_key, timeout=JOIN_DEADLINE_S
    )
    print(json.dumps({"proxy": node.proxy_url, "addresses": node.addresses}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    node.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
