"""Addresses to listen on, their certificate, and why one cannot be had."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from app.errors import ConfigError
from app.settings import Settings

if TYPE_CHECKING:
    from aiohttp import web

#: Pages under way get so long when the process stops.
WEB_STOP_S = 2.0
#: An idle connection for pages is kept so long.
WEB_KEEPALIVE_S = 30.0
#: Connections the kernel may hold before they are accepted; a fleet comes back all at once.
BACKLOG = 4096
TLS_HANDSHAKE_S = 10.0


def reason_of(error: OSError) -> str:
    """The system's words, without what the event loop puts around them."""
    return os.strerror(error.errno) if error.errno else str(error)


def split_listen(address: str) -> tuple[str | None, int]:
    """`host:port` for create_server; an empty host means every address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or None, int(port)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS from certificate files, HTTP/1.1 only: the tunnel's client offers no ALPN. Raises ConfigError."""
    if settings.tls_cert_path is None or settings.tls_key_path is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(settings.tls_cert_path, settings.tls_key_path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"tls_cert_path, tls_key_path: {settings.tls_cert_path}, {settings.tls_key_path}: {error}"
        ) from error
    return context


async def listen_raw(
    key: str, address: str, factory: Callable[[], asyncio.Protocol], tls: ssl.SSLContext | None = None
) -> asyncio.Server:
    """A server of protocols of our own. Raises ConfigError about the setting `key`."""
    host, port = split_listen(address)
    try:
        return await asyncio.get_running_loop().create_server(
            factory,
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else TLS_HANDSHAKE_S,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise ConfigError(f"{key}: cannot listen on {address}: {reason_of(error)}") from error


@asynccontextmanager
async def listening(app: web.Application, key: str, address: str) -> AsyncIterator[str]:
    """Serves pages at an address, and gives it with its port. Raises ConfigError about the setting `key`."""
    # Commands that serve nothing need no more of this module than addresses.
    from aiohttp import web

    runner = web.AppRunner(app, access_log=None, shutdown_timeout=WEB_STOP_S)
    await runner.setup()
    host, port = split_listen(address)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(f"{key}: cannot listen on {address}: {reason_of(error)}") from error
    try:
        at, port = runner.addresses[0][:2]
        yield f"{at}:{port}"
    finally:
        await runner.cleanup()
