"""Prometheus metrics under vLLM's names with the prefix `quire:`, so that dashboards port by a rename."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from . import logs
from .device_metrics import DeviceCollector
from .engine_metrics import EngineCollector, EngineFamilies, EngineMetrics

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine

CONTENT_TYPE = CONTENT_TYPE_LATEST

LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets."""

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Metrics:
    """One server's registry, with the metrics of all its models."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._engines: dict[str, AsyncEngine] = {}
        self._families = EngineFamilies(self.registry)
        self._http_requests = Counter(
            "quire:http_requests",
            "HTTP requests by route, and by model if they are for one. 499 are those whose client had gone.",
            ["model_name", "method", "handler", "status"],
            registry=self.registry,
        )
        self._http_seconds = Histogram(
            "quire:http_request_duration_seconds",
            "From an HTTP request's headers to the last byte of its answer.",
            ["model_name", "method", "handler"],
            buckets=HTTP_SECONDS,
            registry=self.registry,
        )
        self._http_children: dict[tuple[tuple[str, str, str], int], tuple[Counter, Histogram]] = {}
        self._make_loop_metrics()
        self.registry.register(EngineCollector(self._engines))
        self.registry.register(_LogCollector())
        ProcessCollector(namespace="quire_api", registry=self.registry)
        devices = DeviceCollector.find()
        if devices is not None:
            self.registry.register(devices)

    def add_engine(self, name: str, engine: AsyncEngine) -> EngineMetrics:
        """Measures an engine from now on, under its model's name."""
        self._engines[name] = engine
        return EngineMetrics(name, engine, self._families)

    def remove_engine(self, name: str) -> None:
        """Reads an engine's figures no longer; what was counted of its requests stays."""
        self._engines.pop(name, None)

    def _make_loop_metrics(self) -> None:
        self._loop_lag = Histogram(
            "quire:event_loop_lag_seconds",
            "How late the server's event loop wakes, measured ten times a second.",
            buckets=LAG_SECONDS,
            registry=self.registry,
        )
        self._loop_stalls = Counter(
            "quire:event_loop_stalls",
            "Times that the server's own work held its event loop up for 250 ms or more.",
            registry=self.registry,
        )

    def observe_loop(self, lag: float, *, is_stall: bool) -> None:
        """The event loop woke so many seconds late; a stall is the server's own fault."""
        self._loop_lag.observe(lag)
        if is_stall:
            self._loop_stalls.inc()

    def observe_http(
        self, method: str, handler: str | None, status: int, seconds: float, model: str | None = None
    ) -> None:
        """One HTTP request is over.

        Args:
            method: As the client sent it, so any word.
            handler: The route's path with its placeholders, or None if no route was found. Neither
                paths nor unknown methods become labels: clients could make any number of them.
            status: Of the answer.
            seconds: The time it took.
            model: The name of the model that it was for, which must be one that the server has. None for
                no model; a server with a single language model counts it under that.
        """
        if model is None:
            model = next(iter(self._engines)) if len(self._engines) == 1 else ""
        labels = (model, method if method in METHODS else "other", handler or "none")
        children = self._http_children.get((labels, status))
        if children is None:  # finding them by their labels costs more than counting
            children = self._http_requests.labels(*labels, str(status)), self._http_seconds.labels(*labels)
            self._http_children[labels, status] = children
        children[0].inc()
        children[1].observe(seconds)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _LogCollector(Collector):
    """Reads how many log records were lost."""

    def collect(self) -> Iterable[Metric]:
        counter = CounterMetricFamily("quire:log_records_dropped", "Log records that could not be written.")
        counter.add_metric([], logs.dropped.num_dropped)
        yield counter
