"""Runs inside the test's network namespace: sets it up, holds it open, and makes HTTP requests there.

Started as a script with the standard library only. Speaks JSON lines: first {"ready": true}, then one
answer per request, in any order; ends when stdin closes.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import socket
import struct
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

#: linux/sockios.h
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
SIOCBRADDBR = 0x89A0
IFF_UP = 0x1

BRIDGE = "br0"
BRIDGE_ADDRESS = "10.79.0.1"
BRIDGE_MASK = "255.255.255.0"

#: Connections that are kept, by where they lead.
tunnels: dict[str, http.client.HTTPConnection] = {}


def set_up_interfaces() -> None:
    """`lo` and an empty bridge with an address, both up; no route leads out.

    A Tailscale client stays paused while loopback is its only interface (CLIENTS.md 1.4).
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:

        def up(name: str) -> None:
            request = struct.pack("16sh22x", name.encode(), 0)
            (flags,) = struct.unpack_from("h", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", name.encode(), flags | IFF_UP))

        def address(command: int, value: str) -> None:
            packed = socket.inet_aton(value)
            request = struct.pack("16sHH4s16x", BRIDGE.encode(), socket.AF_INET, 0, packed)
            fcntl.ioctl(control, command, request)

        up("lo")
        fcntl.ioctl(control, SIOCBRADDBR, BRIDGE.encode() + b"\0")
        address(SIOCSIFADDR, BRIDGE_ADDRESS)
        address(SIOCSIFNETMASK, BRIDGE_MASK)
        up(BRIDGE)


def fetch(request: dict[str, Any]) -> dict[str, Any]:
    """One HTTP request; `timeout` seconds hold for connecting and for each read.

    `target` takes the place of the URL's path, as a proxy is asked. With `tunnel` the URL is that of a proxy
    which connects to this place; that connection is kept, and used again by the next such request.
    """
    url = urlsplit(request["url"])
    assert url.hostname is not None
    tunnel = request["tunnel"]
    connection = tunnels.pop(tunnel, None)
    if connection is None:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=request["timeout"])
        if tunnel:
            host, _, port = tunnel.rpartition(":")
            connection.set_tunnel(host, int(port))
    elif connection.sock is not None:
        connection.sock.settimeout(request["timeout"])
    target = request["target"] or url.path + (f"?{url.query}" if url.query else "")
    try:
        connection.request(request["method"], target, body=request["body"], headers=request["headers"])
        response = connection.getresponse()
        return {
            "status": response.status,
            "body": response.read().decode("utf-8", "replace"),
            "headers": {name.lower(): value for name, value in response.headers.items()},
        }
    except (OSError, http.client.HTTPException) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        if tunnel:
            tunnels[tunnel] = connection
        else:
            connection.close()


def main() -> None:
    set_up_interfaces()
    lock = threading.Lock()

    def answer(message: dict[str, Any]) -> None:
        with lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    def serve(request: dict[str, Any]) -> None:
        answer({"id": request["id"], **fetch(request)})

    answer({"ready": True})
    for line in sys.stdin:
        threading.Thread(target=serve, args=(json.loads(line),), daemon=True).start()


if __name__ == "__main__":
    main()
