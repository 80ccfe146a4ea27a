"""Prometheus series of an hs-acs. Series about one cluster carry `cluster_id`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

JOB_BUCKETS_S = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0)


class Metrics:
    """All series."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._calls = Counter(
            "hs_acs_calls", "Calls of the API.", ["operation", "status"], registry=self.registry
        )
        self._leads = Gauge("hs_acs_leads", "Whether this instance runs the jobs.", registry=self.registry)
        self._runs = Counter("hs_acs_job_runs", "Runs of jobs.", ["job", "outcome"], registry=self.registry)
        self._run_s = Histogram(
            "hs_acs_job_seconds",
            "How long a job took.",
            ["job"],
            buckets=JOB_BUCKETS_S,
            registry=self.registry,
        )
        self._last_done = Gauge(
            "hs_acs_job_last_success_timestamp_seconds",
            "When a job last went well here.",
            ["job"],
            registry=self.registry,
        )

        gauges = {
            "half_open": "Clients' connections that have not finished their handshake.",
            "refused": "Connections refused by the bound per address, since the start.",
            "parked": "Connections that wait for somebody to serve their cluster.",
            "relayed": "Connections relayed to owners of clusters.",
            "relayed_bytes": "Bytes relayed since the start, both ways.",
        }
        self._entry = {
            name: Gauge(f"hs_acs_entry_{name}", text, registry=self.registry) for name, text in gauges.items()
        }

    def call(self, operation: str, status: int) -> None:
        self._calls.labels(operation, str(status)).inc()

    def leads(self, leads: bool) -> None:
        self._leads.set(leads)

    def entry(self, **values: float) -> None:
        for name, value in values.items():
            self._entry[name].set(value)

    def job(self, name: str, went_well: bool, seconds: float) -> None:
        self._runs.labels(name, "done" if went_well else "failed").inc()
        self._run_s.labels(name).observe(seconds)
        if went_well:
            self._last_done.labels(name).set_to_current_time()

    def text(self) -> bytes:
        return generate_latest(self.registry)
