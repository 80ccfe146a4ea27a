"""Microbenchmark of the tunnel codecs: `python -m bench.noise_micro`. CPU time, median of 9 batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.wire import hostinfo, mapstream, noise, records, tailcfg

BATCHES = 9
KEY = bytes(range(32))
SIZES = (100, 1024, records.MAX_PLAINTEXT)


def cpu_us(call: Callable[[], object], count: int) -> float:
    """CPU microseconds per call."""
    taken = []
    for _ in range(BATCHES):
        start = time.process_time_ns()
        for _ in range(count):
            call()
        taken.append((time.process_time_ns() - start) / count / 1000)
    return statistics.median(taken)


def handshake_rows() -> list[tuple[str, float]]:
    server, machine, ephemeral = (X25519PrivateKey.generate() for _ in range(3))
    public = server.public_key().public_bytes_raw()
    message = noise.Initiator(130, machine, public, ephemeral).message

    def respond() -> None:
        noise.open_initiation(message, server, public).respond(X25519PrivateKey.generate())

    return [
        (
            "initiation opened (an entry's half)",
            cpu_us(lambda: noise.open_initiation(message, server, public), 200),
        ),
        ("responder handshake, fresh ephemeral", cpu_us(respond, 200)),
        ("initiator's first half", cpu_us(lambda: noise.Initiator(130, machine, public, ephemeral), 200)),
        ("HKDF, two outputs", cpu_us(lambda: noise._hkdf(KEY, KEY), 5000)),
    ]


def record_rows() -> list[tuple[str, float]]:
    rows = []
    for size in SIZES:
        plain, sealer = bytes(size), records.Sealer(KEY)
        rows.append((f"seal {size} B", cpu_us(lambda sealer=sealer, plain=plain: sealer.seal(plain), 5000)))
    for size in SIZES:
        count = 5000
        sealer, opener = records.Sealer(KEY), records.Opener(KEY)
        wire = iter([sealer.seal(bytes(size)) for _ in range(count * BATCHES)])
        rows.append(
            (f"open {size} B", cpu_us(lambda opener=opener, wire=wire: opener.feed(next(wire)), count))
        )
    sealer, plain = records.Sealer(KEY), bytes(300_000)
    rows.append(("seal 300,000 B in 74 records", cpu_us(lambda: sealer.seal(plain), 200)))
    return rows


def tailcfg_rows() -> list[tuple[str, float]]:
    info = {
        "IPNVersion": "1.90.9-t0123456789",
        "BackendLogID": "0" * 64,
        "OS": "linux",
        "OSVersion": "6.1.0-18-amd64",
        "Hostname": "laptop-of-somebody",
        "GoArch": "amd64",
        "Services": [{"Proto": "peerapi4", "Port": 41234}, {"Proto": "peerapi6", "Port": 41234}],
        "NetInfo": {"PreferredDERP": 900, "DERPLatency": {"900-v4": 0.012}, "WorkingUDP": True},
    }
    body = orjson.dumps(
        {
            "Version": 130,
            "Compress": "zstd",
            "KeepAlive": True,
            "NodeKey": "nodekey:" + "ab" * 32,
            "DiscoKey": "discokey:" + "cd" * 32,
            "Stream": False,
            "OmitPeers": True,
            "Hostinfo": info,
            "Endpoints": [f"10.1.2.{last}:41641" for last in range(6)],
        }
    )
    raw = orjson.dumps(info)
    blob = bytes(600)
    return [
        (f"parse_map, {len(body)} B, 6 endpoints", cpu_us(lambda: tailcfg.parse_map(body), 2000)),
        (f"peer_hostinfo, {len(raw)} B", cpu_us(lambda: hostinfo.peer_hostinfo(raw), 2000)),
        ("map frame, 600 B", cpu_us(lambda: mapstream.frame(blob), 5000)),
    ]


def main() -> None:
    rows = [*handshake_rows(), *record_rows(), *tailcfg_rows()]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value:>9.2f} us")


if __name__ == "__main__":
    main()
