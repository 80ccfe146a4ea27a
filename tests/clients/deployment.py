"""Control servers of several clusters on one database, and the devices of a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.clients.administration import Administration
from tests.clients.caddy import CaddyNode
from tests.clients.namespace import Namespace
from tests.clients.server import Server

#: The one user of every cluster, so that names are equal everywhere.
USER = "ada"


class Deployment:
    """One database and one secret key file; servers start when first asked for."""

    def __init__(self, namespace: Namespace, home: Path, dsn: str) -> None:
        self._namespace = namespace
        self._home = home
        self._dsn = dsn
        self._servers: dict[str, Server] = {}
        self._keys: dict[str, str] = {}
        self._administrations: list[Administration] = []

    def server(
        self,
        cluster_id: str,
        settings: dict[str, str] | None = None,
        *,
        behind: str = "",
        client_env: dict[str, str] | None = None,
    ) -> Server:
        """The running server of a cluster with the user `USER`; the options count at its first start."""
        if cluster_id not in self._servers:
            server = Server(
                self._namespace,
                self._home / cluster_id,
                cluster_id=cluster_id,
                dsn=self._dsn,
                secret_key_file=self._home / "secret.key",
                settings=settings,
                behind=behind,
                client_env=client_env,
            ).start()
            self._servers[cluster_id] = server
            server.create_user(USER)
            self._keys[cluster_id] = server.auth_key(USER, "--reusable")
        return self._servers[cluster_id]

    def close(self) -> None:
        for administration in self._administrations:
            administration.close()
        for server in self._servers.values():
            server.destroy()

    def administration(self, server: Server) -> Administration:
        """The cluster's data as an administrator sees it, over a connection that is kept."""
        made = Administration(self._dsn, server.cluster_id)
        self._administrations.append(made)
        return made

    def reusable_key(self, server: Server) -> str:
        return self._keys[server.cluster_id]


class Devices:
    """The devices one test has brought up; their processes end with it."""

    def __init__(self, namespace: Namespace, home: Path, deployment: Deployment) -> None:
        self._namespace = namespace
        self._home = home
        self._deployment = deployment
        self._nodes: list[CaddyNode] = []

    def start(
        self,
        server: Server,
        hostname: str,
        *,
        auth_key: str | None = None,
        with_key: bool = True,
        derp_only: bool = False,
        ports: tuple[int, ...] = (80,),
        web_client: bool = False,
        tags: tuple[str, ...] = (),
    ) -> CaddyNode:
        """A new device, started, with a key of the cluster's user unless told otherwise; does not wait."""
        if with_key and auth_key is None:
            auth_key = self._deployment.reusable_key(server)
        node = CaddyNode(
            self._namespace,
            self._home / server.cluster_id / hostname,
            hostname=hostname,
            control_url=server.url,
            auth_key=auth_key,
            page=f"{hostname} of {server.cluster_id}",
            derp_only=derp_only,
            ports=ports,
            web_client=web_client,
            tags=tags,
            env=server.client_env,
        )
        self._nodes.append(node)
        return node.start()

    def register(self, server: Server, *hostnames: str, derp_only: bool = False) -> list[CaddyNode]:
        """New devices one after the other, so with rising addresses; they may still look for their relay."""
        nodes = []
        for hostname in hostnames:
            node = self.start(server, hostname, derp_only=derp_only)
            node.wait_registered()
            nodes.append(node)
        return nodes

    def meet(self, server: Server, *nodes: CaddyNode) -> dict[str, dict[str, Any]]:
        """Wait until each can reach each other; the server's list of devices by name."""
        listed = server.devices()
        for one in nodes:
            for other in nodes:
                if one is not other:
                    server.wait_known(listed[one.hostname]["id"], listed[other.hostname]["fqdn"])
        return listed

    def join(self, server: Server, *hostnames: str) -> list[CaddyNode]:
        """New devices, all Running and connected to their relay."""
        nodes = self.register(server, *hostnames)
        for node in nodes:
            node.wait_running()
            node.wait_reachable()
        return nodes

    def close(self) -> None:
        for node in self._nodes:
            node.destroy()
