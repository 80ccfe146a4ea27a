"""Figures of the relay process as series on its parent's /metrics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from node.derp.admission import AdmissionStats
from node.derp.process import Supervisor
from node.derp.stats import RelayStats

GAUGES = frozenset(("clients", "home_clients", "connections"))
#: The only series there can be, whatever the child reports.
NAMES = (
    *(field.name for field in dataclasses.fields(RelayStats)),
    *(f"verify_{field.name}" for field in dataclasses.fields(AdmissionStats)),
)


class RelayCollector(Collector):
    """Read at each scrape from the child's last report; no series while there is no relay.

    The counters begin anew with each child, which Prometheus takes for what it is.
    """

    def __init__(self, cluster_id: str, relay: Callable[[], Supervisor | None]) -> None:
        self._labels = [cluster_id]
        self._relay = relay

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        relay = self._relay()
        if relay is None:
            return
        yield self._gauge("hs_relay_up", "Whether the relay process runs.", relay.ready is not None)
        yield self._counter("hs_relay_restarts", "Times the relay process was started again.", relay.restarts)
        for name in NAMES:
            figure = relay.stats.get(name)
            if isinstance(figure, int):
                make = self._gauge if name in GAUGES else self._counter
                yield make(f"hs_relay_{name}", f"Of the relay process: {name.replace('_', ' ')}.", figure)

    def _gauge(self, name: str, text: str, figure: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=["cluster_id"])
        family.add_metric(self._labels, figure)
        return family

    def _counter(self, name: str, text: str, figure: float) -> CounterMetricFamily:
        family = CounterMetricFamily(name, text, labels=["cluster_id"])
        family.add_metric(self._labels, figure)
        return family
