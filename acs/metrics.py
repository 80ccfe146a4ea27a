"""Prometheus series of an hs-acs. Series about one cluster carry `cluster_id`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest


class Metrics:
    """All series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "hs_acs_calls", "Calls of the API.", ["operation", "status"], registry=self.registry
        )
        self._leads = Gauge("hs_acs_leads", "Whether this instance runs the jobs.", registry=self.registry)

    def call(self, operation: str, status: int) -> None:
        self._calls.labels(operation, str(status)).inc()

    def leads(self, leads: bool) -> None:
        self._leads.set(leads)

    def text(self) -> bytes:
        return generate_latest(self.registry)
