"""What is measured of classic models, read off their batchers at each scrape.

Counters begin again at zero when a model is loaded anew.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from ..engine.batcher import BatchStatistics
    from ..engine.model_manager import ModelManager
    from ..engine.model_registry import ServedModel

LABELS = ["model_name", "model_version"]

COUNTERS: dict[str, tuple[str, Callable[[BatchStatistics], float]]] = {
    "inference_requests": ("Requests answered.", lambda found: found.num_succeeded),
    "inference_failures": ("Requests that ended in an error or a refusal.", lambda found: found.num_failed),
    "inference_cancelled": ("Requests that their clients gave up.", lambda found: found.num_cancelled),
    "inference_rows": ("Rows of requests that were answered.", lambda found: found.num_rows),
}
"""The families, and how each is read off a `BatchStatistics`."""

ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ClassicCollector(Collector):
    """All classic models that are loaded.

    Args:
        manager: Has them.
    """

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def collect(self) -> Iterable[Metric]:
        """The families, each with a sample of every model; none where there is no model."""
        loaded = list(self._loaded())
        if not loaded:
            return
        for suffix, (text, read) in COUNTERS.items():
            counter = CounterMetricFamily(f"quire:{suffix}", text, labels=LABELS)
            for labels, model in loaded:
                counter.add_metric(labels, read(model.batcher.statistics))
            yield counter
        gauges: tuple[tuple[str, str, Callable[[ServedModel], float]], ...] = (
            ("inference_pending", "Requests in the queue.", lambda model: model.batcher.num_waiting),
            ("inference_workers", "Worker processes that can compute.", lambda model: model.pool.num_ready),
            ("inference_model_ready", "1 while as many workers can as must.", lambda model: model.is_ready),
        )
        for suffix, text, read_gauge in gauges:
            gauge = GaugeMetricFamily(f"quire:{suffix}", text, labels=LABELS)
            for labels, model in loaded:
                gauge.add_metric(labels, float(read_gauge(model)))
            yield gauge
        restarts = CounterMetricFamily(
            "quire:inference_worker_restarts", "Worker processes that were replaced.", labels=LABELS
        )
        for labels, model in loaded:
            restarts.add_metric(labels, model.pool.num_restarts)
        yield restarts
        yield from _histograms([(labels, model.batcher.statistics) for labels, model in loaded])

    def _loaded(self) -> Iterator[tuple[list[str], ServedModel]]:
        registry = self._manager.registry
        if registry is None:
            return
        for entry in registry.index():
            if entry.model is not None:
                yield [entry.name, entry.version], entry.model


def _histograms(found: Sequence[tuple[list[str], BatchStatistics]]) -> Iterator[Metric]:
    from ..engine.batcher import TIME_BOUNDS  # late: with numpy, which is there as there are classic models

    queue = HistogramMetricFamily(
        "quire:inference_queue_seconds", "How long answered requests waited.", labels=LABELS
    )
    compute = HistogramMetricFamily(
        "quire:inference_compute_seconds", "How long answered requests ran, in their batches.", labels=LABELS
    )
    batches = HistogramMetricFamily("quire:inference_batch_rows", "Rows of batches that ran.", labels=LABELS)
    for labels, statistics in found:
        queue.add_metric(labels, _buckets(TIME_BOUNDS, statistics.queue_buckets), statistics.queue_seconds)
        compute.add_metric(
            labels, _buckets(TIME_BOUNDS, statistics.compute_buckets), statistics.compute_seconds
        )
        rows = dict(statistics.batch_rows)
        counts = [0] * (len(ROW_BOUNDS) + 1)
        for size, count in rows.items():
            place = next((place for place, bound in enumerate(ROW_BOUNDS) if size <= bound), len(ROW_BOUNDS))
            counts[place] += count
        batches.add_metric(
            labels, _buckets(ROW_BOUNDS, counts), float(sum(size * count for size, count in rows.items()))
        )
    yield from (queue, compute, batches)


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Bounds and the counts up to each, as Prometheus has them."""
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return [(name, float(total)) for name, total in zip(names, itertools.accumulate(counts), strict=True)]
