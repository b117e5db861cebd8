"""Metrics for Prometheus: those of HTTP are counted here, those of the service are read on each scrape. Enter at
`Metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from a3b.server.connections import ConnectionManager
from a3b.server.service_protocol import ServiceProtocol

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)  # seconds


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, service: ServiceProtocol, connections: ConnectionManager | None = None):
        self.service, self.connections = service, connections
        self.registry = CollectorRegistry(auto_describe=False)
        self.requests = Counter("a3b_http_requests", "Requests answered", ["path", "status"], registry=self.registry)
        self.seconds = Histogram(
            "a3b_http_request_seconds", "Until the last byte", ["path"], buckets=BUCKETS, registry=self.registry
        )
        self.running = Gauge("a3b_http_requests_running", "Requests being answered", registry=self.registry)
        self.registry.register(self)

    def count(self, path: str, status: int, seconds: float) -> None:
        """path: only known names, to bound label cardinality."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The metrics of connections and of the service, as prometheus_client asks for them."""
        if self.connections is not None:
            yield GaugeMetricFamily("a3b_http_connections", "Connections open", value=len(self.connections.open))
            yield CounterMetricFamily(
                "a3b_http_connections_refused", "Connections over a limit", value=self.connections.num_refused
            )
        for name, value in self.service.metrics().items():
            name = name if name.startswith("a3b_") else f"a3b_{name}"
            if name.endswith("_total"):
                yield CounterMetricFamily(name, name, value=value)
            else:
                yield GaugeMetricFamily(name, name, value=value)

    def text(self) -> bytes:
        return generate_latest(self.registry)
