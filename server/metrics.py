"""Prometheus metrics under vLLM's names with the prefix `quire:`, so that dashboards port by a rename."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from . import logs

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine
    from ..engine.request import FinishedRequest
    from ..engine.stats import EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Upper bounds of the histograms' buckets, in seconds and in tokens: vLLM's.
FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
NEXT_TOKEN_SECONDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """One server's registry: what the engine counts is read at each scrape, timings are pushed to it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.registry = CollectorRegistry()
        name = engine.config.model_name

        def histogram(suffix: str, text: str, buckets: Iterable[float]) -> Histogram:
            family = Histogram(
                f"quire:{suffix}", text, ["model_name"], buckets=tuple(buckets), registry=self.registry
            )
            return family.labels(name)

        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_SECONDS
        )
        self.inter_token_latency = histogram(
            "inter_token_latency_seconds", "Between two deltas of a request.", NEXT_TOKEN_SECONDS
        )
        self.e2e_latency = histogram(
            "e2e_request_latency_seconds", "From arrival to the last token.", REQUEST_SECONDS
        )
        self.queue_time = histogram("request_queue_time_seconds", "Waiting.", REQUEST_SECONDS)
        self.prefill_time = histogram(
            "request_prefill_time_seconds", "From scheduling to the first token.", REQUEST_SECONDS
        )
        self.decode_time = histogram(
            "request_decode_time_seconds", "From the first token to the last.", REQUEST_SECONDS
        )
        self.inference_time = histogram(
            "request_inference_time_seconds", "From scheduling to the last token.", REQUEST_SECONDS
        )
        self.iteration_tokens = histogram("iteration_tokens_total", "Tokens in one step.", STEP_TOKENS)
        self.request_success = Counter(
            "quire:request_success",
            "Finished requests.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        self.model_name = name
        self.registry.register(_EngineCollector(engine))
        ProcessCollector(namespace="quire_api", registry=self.registry)
        ProcessCollector(namespace="quire_engine", pid=lambda: engine.stats.pid, registry=self.registry)

        self._num_steps = engine.stats.num_steps
        engine.add_stats_listener(self._after_step)

    def _after_step(self, stats: EngineStats, finished: Sequence[FinishedRequest]) -> None:
        if stats.num_steps != self._num_steps:  # otherwise it is a mere sign of life
            self._num_steps = stats.num_steps
            self.iteration_tokens.observe(stats.step_tokens)
        for request in finished:
            self.request_success.labels(self.model_name, request.finish_reason).inc()
            self.e2e_latency.observe(request.e2e_time)
            self.queue_time.observe(request.queue_time)
            if request.num_generation_tokens == 0:
                continue  # aborted before its first token: there is no time to it
            self.time_to_first_token.observe(request.time_to_first_token)
            self.prefill_time.observe(request.prefill_time)
            self.decode_time.observe(request.decode_time)
            self.inference_time.observe(request.inference_time)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Reads the engine's latest counters; they start at zero again when the engine restarts."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    def collect(self) -> Iterable[Metric]:
        stats = self.engine.stats
        used = 1.0 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0
        gauges = (
            ("num_requests_running", "Requests in the running batch.", stats.num_running),
            ("num_requests_waiting", "Requests waiting.", stats.num_waiting),
            ("kv_cache_usage_perc", "Share of the KV-cache blocks that requests hold, 0 to 1.", used),
            ("num_kv_cache_blocks", "Blocks of the KV cache.", stats.num_blocks),
            ("num_free_kv_cache_blocks", "Blocks that no request holds.", stats.num_free_blocks),
            ("engine_ready", "1 while the engine takes requests.", float(self.engine.is_ready)),
        )
        counters = (
            ("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_cache_queries),
            ("prefix_cache_hits", "Prompt tokens found.", stats.prefix_cache_hits),
            ("num_preemptions", "Requests put back to make room.", stats.num_preemptions),
            ("prompt_tokens", "Prompt tokens processed.", stats.prompt_tokens),
            ("generation_tokens", "Tokens generated.", stats.generation_tokens),
            ("log_records_dropped", "Log records that could not be written.", logs.dropped.num_dropped),
        )
        label = [self.engine.config.model_name]
        for suffix, text, value in gauges:
            gauge = GaugeMetricFamily(f"quire:{suffix}", text, labels=["model_name"])
            gauge.add_metric(label, value)
            yield gauge
        for suffix, text, value in counters:
            counter = CounterMetricFamily(f"quire:{suffix}", text, labels=["model_name"])
            counter.add_metric(label, value)
            yield counter
