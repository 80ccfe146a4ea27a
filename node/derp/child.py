"""The relay process: certificate, relay, STUN, admission; ends when its parent does.

Input: one line of JSON (DerpConfig) on stdin, which then stays open; end of input means stop. With
`--config FILE` the configuration comes from a file and stdin is left alone. Output on stdout: one
JSON line {"event": "ready", ...}, then {"event": "stats", ...} every STATS_PERIOD_S;
or {"event": "failed", "message": ...} and the end. Log: lines on
stderr, as the parent has them.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
import uvloop

from app import log
from app.errors import ConfigError, HsError, Unavailable
from app.runtime import raise_open_files
from node.derp.admission import Admission, admit_everybody
from node.derp.certificate import load_or_create_certificate, load_or_create_relay_key, server_context
from node.derp.config import DerpConfig, Ready, certificate_names, parse_config
from node.derp.server import Relay, RelayOptions
from node.derp.stun import StunServer

#: How old the relay's figures on the parent's /metrics may be.
STATS_PERIOD_S = 2.0
#: Largest configuration line.
MAX_CONFIG_BYTES = 64 * 1024

_log = log.get("relay")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a relay until its input ends or SIGTERM or SIGINT comes; returns the exit code."""
    parser = argparse.ArgumentParser(prog="hs-node derp", description="The DERP relay and STUN server.")
    parser.add_argument("--config", type=Path, help="JSON file; without it one line of JSON on stdin")
    arguments = parser.parse_args(argv)
    try:
        config = _read_config(arguments.config)
        log.configure(config.log_level, config.log_format, config.cluster_id)
        raise_open_files()
        uvloop.run(_run(config, watch_input=arguments.config is None))
    except HsError as error:
        if arguments.config is None:
            _report("failed", {"message": error.message})
        else:
            print(f"error: {error.message}", file=sys.stderr)
        return error.exit_code
    return 0


def _read_config(path: Path | None) -> DerpConfig:
    if path is None:
        line = _read_line(sys.stdin.fileno())
        return parse_config(line)
    try:
        with path.open("rb") as file:
            return parse_config(file.read(MAX_CONFIG_BYTES))
    except OSError as error:
        raise ConfigError(f"the relay's configuration {path} cannot be read: {error}") from error


def _read_line(descriptor: int) -> bytes:
    """One line without buffering, so that nothing after it is swallowed. Raises ConfigError."""
    line = bytearray()
    while not line.endswith(b"\n"):
        part = os.read(descriptor, MAX_CONFIG_BYTES)
        line += part
        if not part or len(line) > MAX_CONFIG_BYTES:
            raise ConfigError(f"stdin must begin with one line of JSON of at most {MAX_CONFIG_BYTES} bytes")
    return bytes(line)


async def _run(config: DerpConfig, *, watch_input: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if watch_input:
        loop.add_reader(sys.stdin.fileno(), _watch_input, loop, stop)
        os.set_blocking(sys.stdout.fileno(), False)
    directory = Path(config.data_dir)
    now = datetime.datetime.now(datetime.UTC)
    certificate = load_or_create_certificate(directory, certificate_names(config), now)
    admission = Admission(config.verify_url) if config.verify_url else None
    options = RelayOptions(rate_bytes_per_s=config.rate_bytes_per_s, bootstrap_dns=config.bootstrap_dns)
    relay = Relay(load_or_create_relay_key(directory), admission or admit_everybody, options)
    stun = StunServer(relay.stats)
    try:
        try:
            port = await relay.start(config.listen_host, config.listen_port, server_context(certificate))
        except OSError as error:
            raise _cannot_listen("listen_addr", config.listen_host, config.listen_port, error) from error
        try:
            stun_port = -1 if config.stun_port < 0 else stun.start(config.stun_host, config.stun_port)
        except OSError as error:
            raise _cannot_listen("stun_listen_addr", config.stun_host, config.stun_port, error) from error
        ready = Ready(os.getpid(), port, stun_port, certificate.pin, relay.public_key.hex())
        _log.info("relay_ready", derp_port=port, stun_port=stun_port, hostname=config.hostname)
        _report("ready", msgspec.to_builtins(ready))
        await _report_until(stop, relay, admission)
    finally:
        stun.stop()
        await relay.stop()
        if admission is not None:
            await admission.aclose()
    _log.info("relay_stopped")


def _cannot_listen(key: str, host: str, port: int, error: OSError) -> Unavailable:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return Unavailable(f"derp.server.{key}: the relay cannot listen on {host}:{port}: {reason}")


def _watch_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), MAX_CONFIG_BYTES):
        loop.remove_reader(sys.stdin.fileno())
        stop.set()


async def _report_until(stop: asyncio.Event, relay: Relay, admission: Admission | None) -> None:
    while not stop.is_set():
        figures = dataclasses.asdict(relay.stats)
        if admission is not None:
            figures |= {f"verify_{name}": n for name, n in dataclasses.asdict(admission.stats).items()}
        _report("stats", figures)
        try:
            async with asyncio.timeout(STATS_PERIOD_S):
                await stop.wait()
        except TimeoutError:
            continue


def _report(event: str, fields: dict[str, Any]) -> None:
    """One line on stdout. Lines are short, so a pipe takes them whole or not at all."""
    try:
        os.write(sys.stdout.fileno(), orjson.dumps({"event": event, **fields}) + b"\n")
    except BlockingIOError:
        _log.warning("relay_report_not_read", report=event)
    except BrokenPipeError:
        _log.info("relay_report_pipe_closed", report=event)
