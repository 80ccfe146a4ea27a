"""Prometheus series of a control server. Every series carries `cluster_id`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from node.fanout import RoundStats

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """All series, with the cluster already filled in."""

    def __init__(self, cluster_id: str) -> None:
        self.registry = CollectorRegistry()
        labels = ["cluster_id"]

        def counter(name: str, text: str, *extra: str) -> Counter:
            return Counter(name, text, [*labels, *extra], registry=self.registry)

        def gauge(name: str, text: str, *extra: str) -> Gauge:
            return Gauge(name, text, [*labels, *extra], registry=self.registry)

        self._cluster_id = cluster_id
        self._registrations = counter("hs_registrations", "Answers to register requests.", "outcome")
        self._map_requests = counter("hs_map_requests", "Map requests by kind.", "kind")
        self._requests = counter("hs_operator_requests", "Operator requests by outcome.", "kind", "outcome")
        self._tunnels = gauge("hs_tunnels", "Open Noise tunnels.").labels(cluster_id)
        self._devices = gauge("hs_devices", "Registered devices.").labels(cluster_id)
        self._sessions = gauge("hs_sessions", "Open map polls.").labels(cluster_id)
        self._tasks = gauge("hs_tasks", "Tasks of the event loop.").labels(cluster_id)
        self._tenants = gauge("hs_tenants", "Tenants of this cluster.").labels(cluster_id)
        self._half_open = gauge("hs_half_open_connections", "Connections before their first record.").labels(
            cluster_id
        )
        self._displaced = gauge(
            "hs_displaced_connections", "Unfinished connections cut for newer ones since the start: a flood."
        ).labels(cluster_id)
        self._refused = gauge(
            "hs_refused_connections", "Connections refused since the start: too many of one address."
        ).labels(cluster_id)
        self._parked = gauge(
            "hs_parked_connections", "Connections that wait for an owner of the cluster."
        ).labels(cluster_id)
        self._relayed = gauge("hs_relayed_connections", "Connections relayed to the owner.").labels(
            cluster_id
        )
        self._relayed_bytes = gauge(
            "hs_relayed_bytes", "Bytes relayed since the start, both ways together."
        ).labels(cluster_id)
        self._hops = Gauge(
            "hs_hops",
            "Connections from other entries since the start, by what became of them.",
            [*labels, "outcome"],
            registry=self.registry,
        )
        self._waiting = gauge("hs_state_waiting", "Devices whose state waits to be stored.").labels(
            cluster_id
        )
        self._policy_invalid = gauge(
            "hs_policy_invalid", "Tenants whose policy in force does not pass.", "tenant"
        )
        self._frames = counter("hs_delta_frames", "Deltas written to viewers.").labels(cluster_id)
        self._frame_bytes = counter("hs_delta_bytes", "Bytes of deltas.").labels(cluster_id)
        self._maps = counter("hs_full_maps", "Full maps written.").labels(cluster_id)
        self._map_bytes = counter("hs_full_map_bytes", "Bytes of full maps.").labels(cluster_id)
        self._encodings = counter("hs_delta_encodings", "Distinct encodings of deltas.").labels(cluster_id)
        self._resyncs = counter("hs_resyncs", "Viewers that needed a full map in between.").labels(cluster_id)
        self._late = counter("hs_late_announcements", "Maps sent before all peers were told.").labels(
            cluster_id
        )
        self._kinds = counter("hs_messages", "Deltas by the weightiest thing in them.", "kind")
        self._puts = counter("hs_netmap_puts", "Changes handed to netmaps, before they coalesce.").labels(
            cluster_id
        )
        self._blocks = counter("hs_map_blocks", "Blocks of peers in full maps: known or encoded.", "from")
        self._rebuild_s = Histogram(
            "hs_rebuild_seconds",
            "Duration of rebuilds that operators asked for.",
            [*labels, "scope"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._stall = Histogram(
            "hs_loop_stall_seconds",
            "How late the event loop was, sampled.",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        ).labels(cluster_id)
        self._lag = Histogram(
            "hs_change_lag_seconds",
            "From a foreign change's row to its effect in memory.",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        ).labels(cluster_id)
        self._lagging = gauge(
            "hs_sessions_lagging", "Map polls that are behind and wait for a full map."
        ).labels(cluster_id)
        self._waiting_maps = gauge("hs_sessions_waiting", "Map polls whose full map is due.").labels(
            cluster_id
        )
        self._longest_s = 0.0
        self._longest = gauge(
            "hs_loop_stall_longest_seconds", "The longest hold of the event loop since this was last read."
        ).labels(cluster_id)
        self._gc = Histogram(
            "hs_gc_pause_seconds",
            "Collections of Python's cyclic collector, during which nothing else runs.",
            [*labels, "generation"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._unsent = gauge("hs_unsent_bytes", "Bytes of map polls that have not left the process.").labels(
            cluster_id
        )
        self._changed = counter("hs_changed_devices", "Devices whose netmap row changed.").labels(cluster_id)
        self._rows = counter("hs_foreign_changes", "Rows of `changes` written by others.").labels(cluster_id)
        self._rounds = Histogram(
            "hs_round_seconds",
            "Duration of fan-out rounds.",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        ).labels(cluster_id)

    def operator_request(self, kind: str, outcome: str) -> None:
        self._requests.labels(self._cluster_id, kind, outcome).inc()

    def registration(self, outcome: str) -> None:
        self._registrations.labels(self._cluster_id, outcome).inc()

    def policy_invalid(self, tenant: str, invalid: bool) -> None:
        """Whether the policy in force of a tenant does not pass; a series only while it does not."""
        if invalid:
            self._policy_invalid.labels(self._cluster_id, tenant).set(1)
        else:
            with suppress(KeyError):
                self._policy_invalid.remove(self._cluster_id, tenant)

    def map_request(self, kind: str) -> None:
        self._map_requests.labels(self._cluster_id, kind).inc()

    def foreign_rows(self, count: int, lag_s: float) -> None:
        """`lag_s`: age of the oldest of them when it took effect."""
        self._rows.inc(count)
        if count:
            self._lag.observe(max(0.0, lag_s))

    def rebuilt(self, scope: str, seconds: float) -> None:
        self._rebuild_s.labels(self._cluster_id, scope).observe(seconds)

    def gc_pause(self, generation: int, seconds: float) -> None:
        self._gc.labels(self._cluster_id, str(generation)).observe(seconds)

    def loop_stall(self, seconds: float) -> None:
        self._stall.observe(seconds)
        self._longest_s = max(self._longest_s, seconds)

    def tunnel_opened(self) -> None:
        self._tunnels.inc()

    def tunnel_closed(self) -> None:
        self._tunnels.dec()

    def round(self, stats: RoundStats) -> None:
        self._frames.inc(stats.frames)
        self._frame_bytes.inc(stats.bytes)
        self._maps.inc(stats.maps)
        self._map_bytes.inc(stats.map_bytes)
        self._encodings.inc(stats.encodings)
        self._resyncs.inc(stats.resyncs)
        self._late.inc(stats.late_maps)
        self._changed.inc(stats.devices)
        self._puts.inc(stats.puts)
        for kind, count in stats.kinds.items():
            self._kinds.labels(self._cluster_id, kind).inc(count)
        self._blocks.labels(self._cluster_id, "cache").inc(stats.blocks_known)
        self._blocks.labels(self._cluster_id, "encoder").inc(stats.blocks_made)
        self._rounds.observe(stats.seconds)

    def gauges(
        self,
        *,
        tenants: int,
        devices: int,
        sessions: int,
        waiting: int,
        sessions_lagging: int,
        sessions_waiting: int,
        unsent_bytes: int,
        tasks: int,
    ) -> None:
        self._unsent.set(unsent_bytes)
        self._tasks.set(tasks)
        self._lagging.set(sessions_lagging)
        self._waiting_maps.set(sessions_waiting)
        self._tenants.set(tenants)
        self._devices.set(devices)
        self._sessions.set(sessions)
        self._waiting.set(waiting)

    def followed(self, tenants: int, devices: int) -> None:
        """What a standby has in memory."""
        self._tenants.set(tenants)
        self._devices.set(devices)

    def entry(
        self,
        *,
        half_open: int,
        displaced: int,
        refused: int,
        parked: int,
        relayed: int,
        relayed_bytes: int,
        hops: Mapping[str, int],
    ) -> None:
        self._half_open.set(half_open)
        self._displaced.set(displaced)
        self._refused.set(refused)
        self._parked.set(parked)
        self._relayed.set(relayed)
        self._relayed_bytes.set(relayed_bytes)
        for outcome, count in hops.items():
            self._hops.labels(self._cluster_id, outcome).set(count)

    def text(self) -> bytes:
        self._longest.set(self._longest_s)
        self._longest_s = 0.0
        return generate_latest(self.registry)
