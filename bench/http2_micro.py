"""CPU of our HTTP/2 against the `h2` package, in one process and run.

    python -m bench.http2_micro

Prints the median and the minimum of several rounds in microseconds, and Python heap per connection.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable

import h2.config
import h2.connection

from app.wire import h2frames
from app.wire.http2 import ClientConnection, ServerConnection

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


def timed(make: Callable[[], Callable[[], None]], count: int) -> tuple[float, float]:
    """Median and minimum microseconds of one of `count` operations; `make` prepares a round."""
    figures = []
    for _ in range(ROUNDS):
        run = make()
        start = time.perf_counter()
        run()
        figures.append((time.perf_counter() - start) / count * 1e6)
    return statistics.median(figures), min(figures)


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


def main() -> None:
    count = 400
    wires = client_wire(120)
    rows = [
        (
            "600 B DATA out",
            timed(lambda: ours_data(wires, 20_000), 20_000),
            timed(lambda: h2_data(wires, 2_000), 2_000),
        ),
        (
            "  by send + take_output",
            timed(lambda: ours_send(wires, 5_000), 5_000),
            None,
        ),
        (
            "further request + answer",
            timed(lambda: ours_requests(wires), len(wires) - 2),
            timed(lambda: h2_requests(wires), len(wires) - 2),
        ),
        (
            "setup, 1st request, 200",
            timed(lambda: repeat(lambda: ours_connected(wires), 60), 60),
            timed(lambda: repeat(lambda: h2_connected(wires), 60), 60),
        ),
        (
            "WINDOW_UPDATE pair in",
            timed(lambda: windows(ours_narrow(wires), count), count),
            timed(lambda: windows(h2_narrow(wires), count), count),
        ),
        ("210 kB answer, both ends", timed(lambda: download(210_000), 1), None),
    ]
    print(f"{'us, median (min)':28}{'ours':>18}{'h2':>18}{'h2/ours':>10}")
    for name, ours, theirs in rows:
        other = f"{theirs[0]:.2f} ({theirs[1]:.2f})" if theirs else "-"
        ratio = f"{theirs[0] / ours[0]:.1f}" if theirs else ""
        print(f"{name:28}{f'{ours[0]:.2f} ({ours[1]:.2f})':>18}{other:>18}{ratio:>10}")
    ours_heap, h2_heap = heap(lambda: ours_connected(wires)), heap(lambda: h2_connected(wires))
    print(f"{'heap B/connection, 1 stream':28}{ours_heap:>18.0f}{h2_heap:>18.0f}{h2_heap / ours_heap:>10.1f}")


if __name__ == "__main__":
    main()
