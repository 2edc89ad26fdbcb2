"""Prometheus metrics under vLLM's names with the prefix `quire:`, so that dashboards port by a rename."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from . import logs
from .device_metrics import DeviceCollector
from .recent import RecentTimes

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine
    from ..engine.request import FinishedRequest
    from ..engine.stats import EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Upper bounds of the histograms' buckets, in seconds and in tokens: vLLM's, and more where said.
FIRST_TOKEN_SECONDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
NEXT_TOKEN_SECONDS = (  # the first three are for small models, which vLLM's would all put into one
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
REQUEST_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
HTTP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
REQUEST_TOKENS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
    *(10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000),
)
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class Metrics:
    """One server's registry: what the engine counts is read at each scrape, timings are pushed to it.

    Attributes:
        recent_first_token, recent_next_token: What the live view shows, as this process saw it.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.registry = CollectorRegistry()
        self.model_name = engine.config.model_name
        self.recent_first_token = RecentTimes()
        self.recent_next_token = RecentTimes()
        self._make_request_histograms()
        self.request_success = Counter(
            "quire:request_success",
            "Finished requests.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )
        self._http_requests = Counter(
            "quire:http_requests",
            "HTTP requests by route. 499 are those whose client had gone.",
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
        self.registry.register(_EngineCollector(engine))
        self.registry.register(_ConfigCollector(engine))
        ProcessCollector(namespace="quire_api", registry=self.registry)
        ProcessCollector(namespace="quire_engine", pid=lambda: engine.stats.pid, registry=self.registry)
        devices = DeviceCollector.find(self.model_name)
        if devices is not None:
            self.registry.register(devices)

        self._num_steps = engine.stats.num_steps
        engine.add_stats_listener(self._after_step)

    def _make_request_histograms(self) -> None:
        def histogram(suffix: str, text: str, buckets: Iterable[float]) -> Histogram:
            family = Histogram(
                f"quire:{suffix}", text, ["model_name"], buckets=tuple(buckets), registry=self.registry
            )
            return family.labels(self.model_name)

        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_SECONDS
        )
        self.inter_token_latency = histogram(
            "inter_token_latency_seconds", "Between two deltas of a request.", NEXT_TOKEN_SECONDS
        )
        self.time_per_output_token = histogram(
            "request_time_per_output_token_seconds",
            "Of each request's tokens after the first, the average time.",
            NEXT_TOKEN_SECONDS,
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
        self.request_prompt_tokens = histogram(
            "request_prompt_tokens", "Prompt tokens of finished requests.", REQUEST_TOKENS
        )
        self.request_generation_tokens = histogram(
            "request_generation_tokens", "Tokens that finished requests generated.", REQUEST_TOKENS
        )

    def observe_next_token(self, seconds: float) -> None:
        """A request's delta came so long after the one before."""
        self.inter_token_latency.observe(seconds)
        self.recent_next_token.add(seconds)

    def observe_http(self, method: str, handler: str | None, status: int, seconds: float) -> None:
        """One HTTP request is over.

        Args:
            method: As the client sent it, so any word.
            handler: The route's path with its placeholders, or None if no route was found. Neither
                paths nor unknown methods become labels: clients could make any number of them.
            status: Of the answer.
            seconds: The time it took.
        """
        labels = (self.model_name, method if method in METHODS else "other", handler or "none")
        self._http_requests.labels(*labels, str(status)).inc()
        self._http_seconds.labels(*labels).observe(seconds)

    def _after_step(self, stats: EngineStats, finished: Sequence[FinishedRequest]) -> None:
        if stats.num_steps != self._num_steps:  # otherwise it is a mere sign of life
            self._num_steps = stats.num_steps
            self.iteration_tokens.observe(stats.step_tokens)
        for request in finished:
            self.request_success.labels(self.model_name, request.finish_reason).inc()
            self.e2e_latency.observe(request.e2e_time)
            self.queue_time.observe(request.queue_time)
            self.request_prompt_tokens.observe(request.num_prompt_tokens)
            self.request_generation_tokens.observe(request.num_generation_tokens)
            if request.num_generation_tokens == 0:
                continue  # aborted before its first token: there is no time to it
            self.time_to_first_token.observe(request.time_to_first_token)
            if request.num_generation_tokens > 1:
                self.time_per_output_token.observe(request.decode_time / (request.num_generation_tokens - 1))
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
            (
                "num_cached_kv_cache_blocks",
                "Blocks, held or not, whose content can be found again.",
                stats.num_cached_blocks,
            ),
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


class _ConfigCollector(Collector):
    """What the cache is like, as labels of a constant."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    def collect(self) -> Iterable[Metric]:
        config = self.engine.config
        info = GaugeMetricFamily(
            "quire:cache_config_info",
            "The KV cache's settings.",
            labels=["model_name", "block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching"],
        )
        labels = (
            config.model_name,
            config.block_size,
            self.engine.stats.num_blocks,
            config.kv_cache_dtype,
            config.enable_prefix_caching,
        )
        info.add_metric([str(label) for label in labels], 1.0)
        yield info
