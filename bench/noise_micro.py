"""The tunnel codecs alone: `python -m bench noise`. CPU time of 9 batches."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import orjson
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from app.wire import hostinfo, mapstream, noise, records, tailcfg
from bench.report import Table
from bench.system import Lab

BATCHES = 9
KEY = bytes(range(32))
SIZES = (100, 1024, records.MAX_PLAINTEXT)


def cpu_us(call: Callable[[], object], count: int) -> list[float]:
    """CPU microseconds per call, of each batch."""
    taken = []
    for _ in range(BATCHES):
        start = time.process_time_ns()
        for _ in range(count):
            call()
        taken.append((time.process_time_ns() - start) / count / 1000)
    return taken


def handshake_rows() -> list[tuple[str, list[float]]]:
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


def record_rows() -> list[tuple[str, list[float]]]:
    rows = [
        (f"seal {size} B", cpu_us(partial(records.Sealer(KEY).seal, bytes(size)), 5000)) for size in SIZES
    ]
    rows += [(f"open {size} B", cpu_us(opened(size, 5000), 5000)) for size in SIZES]
    rows.append(
        ("seal 300,000 B in 74 records", cpu_us(partial(records.Sealer(KEY).seal, bytes(300_000)), 200))
    )
    return rows


def opened(size: int, count: int) -> Callable[[], object]:
    """Opens the next of as many records as all batches need."""
    sealer, opener = records.Sealer(KEY), records.Opener(KEY)
    wire = iter([sealer.seal(bytes(size)) for _ in range(count * BATCHES)])
    return lambda: opener.feed(next(wire))


def tailcfg_rows() -> list[tuple[str, list[float]]]:
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


def run(lab: Lab) -> Table:
    table = Table("noise", "codecs of the tunnel, CPU per call")
    for name, taken in [*handshake_rows(), *record_rows(), *tailcfg_rows()]:
        table.add(name, "us", taken)
    return table
