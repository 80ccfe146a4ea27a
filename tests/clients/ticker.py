"""A transfer that never pauses: `serve PORT` sends a chunk every few ms, `read URL PEER` takes them.

The reader prints one JSON line at the end: chunks, bytes, the longest time between two reads, and whether
every byte was the one that was sent.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import sys
import time
from urllib.parse import urlsplit

CHUNK = 8192
EVERY_S = 0.01


def chunk(number: int) -> bytes:
    """The bytes of one chunk."""
    return hashlib.sha256(number.to_bytes(8, "big")).digest() * (CHUNK // 32)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()
        try:
            for number in range(1_000_000):
                self.wfile.write(chunk(number))
                self.wfile.flush()
                time.sleep(EVERY_S)
        except OSError:
            return

    def log_message(self, format: str, *arguments: object) -> None:
        return


def serve(port: int) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    print("serving", flush=True)
    server.serve_forever()


def read(url: str, peer: str) -> None:
    """Until a line comes in."""
    import threading

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    connection.request("GET", "/stream", headers={"X-Peer": peer})
    response = connection.getresponse()
    assert response.status == 200, response.status
    ending = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), ending.set()), daemon=True).start()
    number, gap, good = 0, 0.0, True
    last = time.monotonic()
    print("reading", flush=True)
    while not ending.is_set():
        data = response.read(CHUNK)
        now = time.monotonic()
        gap, last = max(gap, now - last), now
        good = good and data == chunk(number)
        number += 1
        if len(data) < CHUNK:
            break
    told = {"chunks": number, "bytes": number * CHUNK, "gap_s": round(gap, 4), "good": good}
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        read(sys.argv[2], sys.argv[3])
