"""A flood as a process of its own: `python -m tests.node.flooder URL EACH`, until its input ends.

From each of four loopback addresses it keeps EACH connections open that never get anywhere, and dials
again whenever one is cut. Says `standing` once all were dialled.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import sys
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.client.serverkey import fetch_server_key
from app.runtime import raise_open_files
from app.wire import noise

VERSION = 130
#: The first is where good clients are as well, as behind one NAT.
SOURCES = [f"127.0.0.{number}" for number in range(1, 5)]
DIALLING_AT_ONCE = 64


async def openings(url: str) -> list[bytes]:
    """What such connections begin with."""
    key = await fetch_server_key(url, VERSION)
    replayed = noise.Initiator(VERSION, X25519PrivateKey.generate(), key, X25519PrivateKey.generate())
    upgrade = (
        b"POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\n"
        b"Connection: upgrade\r\nX-Tailscale-Handshake: " + base64.b64encode(replayed.message) + b"\r\n\r\n"
    )
    # Nothing; half a head; a handshake that is never gone on with; the same and half a record.
    return [b"", upgrade[:60], upgrade, upgrade + b"\x04\x00\x20half"]


async def main(url: str, each: int) -> None:
    raise_open_files()
    host, port = urlsplit(url).hostname, urlsplit(url).port
    first = await openings(url)
    gate = asyncio.Semaphore(DIALLING_AT_ONCE)
    dialled = 0

    async def hold(source: str, opening: bytes) -> None:
        nonlocal dialled
        for attempt in itertools.count():
            async with gate:
                try:
                    reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
                except OSError:
                    continue
                writer.write(opening)
            if attempt == 0:
                dialled += 1
                if dialled == each * len(SOURCES):
                    print("standing", flush=True)
            try:
                while await reader.read(4096):
                    pass
            except OSError:
                pass
            writer.transport.abort()

    tasks = [
        asyncio.create_task(hold(source, first[number % len(first)]))
        for number in range(each)
        for source in SOURCES
    ]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
