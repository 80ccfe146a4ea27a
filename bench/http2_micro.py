"""Our HTTP/2 against the `h2` package, in one process: `python -m bench http2`."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import h2.config
import h2.connection

from app.wire import h2frames
from app.wire.http2 import ClientConnection, ServerConnection
from bench.report import Table
from bench.system import Lab

ROUNDS = 9
BODY = b"d" * 600
REQUEST_BODY = b"{" + b"x" * 700 + b"}"
HEADERS = [
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "control.example.com"),
    (":path", "/machine/map"),
    ("ts-lb", "nodekey:" + "5a" * 32),
    ("content-length", str(len(REQUEST_BODY))),
    ("accept-encoding", "gzip"),
    ("user-agent", "Go-http-client/2.0"),
]
WIDE = 2**31 - 1 - 65_535


def wide_h2(*, client: bool) -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client))
    connection.initiate_connection()
    return connection


def client_wire(count: int) -> list[bytes]:
    """What an h2 client sends: greeting and first request, then `count` further requests."""
    client = wide_h2(client=True)
    client.increment_flow_control_window(WIDE)
    greeting = client.data_to_send()
    server = wide_h2(client=False)
    server.receive_data(greeting)
    client.receive_data(server.data_to_send())
    wires = [greeting + client.data_to_send()]
    for _ in range(count):
        stream_id = client.get_next_available_stream_id()
        client.send_headers(stream_id, HEADERS)
        client.send_data(stream_id, REQUEST_BODY, end_stream=True)
        wires.append(client.data_to_send())
        server.receive_data(wires[-1])
        server.acknowledge_received_data(len(REQUEST_BODY), stream_id)
        server.send_headers(stream_id, [(":status", "200")], end_stream=True)
        client.receive_data(server.data_to_send())
    return wires


def ours_connected(wires: list[bytes]) -> ServerConnection:
    server = ServerConnection()
    server.start()
    server.receive(wires[0])
    server.receive(wires[1])
    server.respond(1, 200)
    server.take_output()
    server.receive(h2frames.window_update(1, WIDE))
    return server


def h2_connected(wires: list[bytes]) -> h2.connection.H2Connection:
    server = wide_h2(client=False)
    server.receive_data(wires[0])
    server.receive_data(wires[1])
    server.send_headers(1, [(":status", "200")])
    server.receive_data(h2frames.window_update(1, WIDE))
    server.data_to_send()
    return server


def timed(make: Callable[[], Callable[[], None]], count: int) -> list[float]:
    """CPU microseconds of one of `count` operations, round by round; `make` prepares a round."""
    figures = []
    for _ in range(ROUNDS):
        run = make()
        start = time.process_time_ns()
        run()
        figures.append((time.process_time_ns() - start) / count / 1e3)
    return figures


def ours_data(wires: list[bytes], count: int) -> Callable[[], None]:
    server = ours_connected(wires)

    def run() -> None:
        frame = server.data_frame
        for _ in range(count):
            assert frame(1, BODY) is not None

    return run


def ours_send(wires: list[bytes], count: int) -> Callable[[], None]:
    server = ours_connected(wires)

    def run() -> None:
        for _ in range(count):
            server.send(1, BODY)
            server.take_output()

    return run


def h2_data(wires: list[bytes], count: int) -> Callable[[], None]:
    server = h2_connected(wires)

    def run() -> None:
        for _ in range(count):
            server.send_data(1, BODY)
            server.data_to_send()

    return run


def ours_requests(wires: list[bytes]) -> Callable[[], None]:
    server = ours_connected(wires)

    def run() -> None:
        for wire in wires[2:]:
            (request,) = server.receive(wire)
            server.respond(request.stream_id, 200, (("content-type", "application/json"),))  # type: ignore[union-attr]
            server.send(request.stream_id, BODY, end_stream=True)  # type: ignore[union-attr]
            server.take_output()

    return run


def h2_requests(wires: list[bytes]) -> Callable[[], None]:
    server = h2_connected(wires)

    def run() -> None:
        stream_id = 1
        for wire in wires[2:]:
            stream_id += 2
            server.receive_data(wire)
            server.acknowledge_received_data(len(REQUEST_BODY), stream_id)
            server.send_headers(stream_id, [(":status", "200"), ("content-type", "application/json")])
            server.send_data(stream_id, BODY, end_stream=True)
            server.data_to_send()

    return run


def repeat(make: Callable[[], object], count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            make()

    return run


def windows(server: ServerConnection | h2.connection.H2Connection, count: int) -> Callable[[], None]:
    pair = h2frames.window_update(0, 600) + h2frames.window_update(1, 600)
    feed: Callable[[bytes], object] = (
        server.receive if isinstance(server, ServerConnection) else server.receive_data
    )

    def run() -> None:
        for _ in range(count):
            feed(pair)

    return run


def ours_narrow(wires: list[bytes]) -> ServerConnection:
    server = ServerConnection()
    server.start()
    server.receive(h2frames.PREFACE + h2frames.settings(()))
    server.receive(wires[1])
    server.take_output()
    return server


def h2_narrow(wires: list[bytes]) -> h2.connection.H2Connection:
    server = wide_h2(client=False)
    server.receive_data(h2frames.PREFACE + h2frames.settings(()))
    server.receive_data(wires[1])
    return server


def download(size: int) -> Callable[[], None]:
    """Both ends ours: one answer of `size` bytes in 16 KiB frames."""
    server, client = ServerConnection(), ClientConnection()
    server.start()
    client.start()
    stream_id = client.request("POST", "/machine/map")
    server.receive(client.take_output())
    client.receive(server.take_output())
    server.receive(client.take_output())
    server.respond(stream_id, 200)
    body = b"m" * size

    def run() -> None:
        server.send(stream_id, body, end_stream=True)
        client.receive(server.take_output())

    return run


def heap(make: Callable[[], object], count: int = 200) -> float:
    kept = [make()]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    kept += [make() for _ in range(count)]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return grown / count


def run(lab: Lab) -> Table:
    table = Table("http2", "our HTTP/2 against the `h2` package, one process", naive_label="h2")
    count = 400
    wires = client_wire(120)
    requests = len(wires) - 2
    table.add(
        "600 B DATA out",
        "us",
        timed(lambda: ours_data(wires, 20_000), 20_000),
        naive=timed(lambda: h2_data(wires, 2_000), 2_000),
    )
    table.add("  by send + take_output", "us", timed(lambda: ours_send(wires, 5_000), 5_000))
    table.add(
        "further request + answer",
        "us",
        timed(lambda: ours_requests(wires), requests),
        naive=timed(lambda: h2_requests(wires), requests),
    )
    table.add(
        "setup, first request, 200",
        "us",
        timed(lambda: repeat(lambda: ours_connected(wires), 60), 60),
        naive=timed(lambda: repeat(lambda: h2_connected(wires), 60), 60),
    )
    table.add(
        "WINDOW_UPDATE pair in",
        "us",
        timed(lambda: windows(ours_narrow(wires), count), count),
        naive=timed(lambda: windows(h2_narrow(wires), count), count),
    )
    table.add("210 KB answer, both ends", "us", timed(lambda: download(210_000), 1))
    table.add(
        "Python heap per connection, one stream",
        "B",
        [heap(lambda: ours_connected(wires))],
        naive=[heap(lambda: h2_connected(wires))],
    )
    return table
