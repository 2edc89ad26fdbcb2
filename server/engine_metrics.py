"""What is measured of each engine: timings are pushed here, what the engine counts is read at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .recent import RecentTimes

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine
    from ..engine.request import FinishedRequest
    from ..engine.stats import EngineStats

F = TypeVar("F", GaugeMetricFamily, CounterMetricFamily)

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
REQUEST_TOKENS = (
    *(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000),
    *(10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000),
)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

HISTOGRAMS: Mapping[str, tuple[str, Iterable[float]]] = {
    "time_to_first_token_seconds": ("From arrival to the first token.", FIRST_TOKEN_SECONDS),
    "inter_token_latency_seconds": ("Between two deltas of a request.", NEXT_TOKEN_SECONDS),
    "request_time_per_output_token_seconds": (
        "Of each request's tokens after the first, the average time.",
        NEXT_TOKEN_SECONDS,
    ),
    "e2e_request_latency_seconds": ("From arrival to the last token.", REQUEST_SECONDS),
    "request_queue_time_seconds": ("Waiting.", REQUEST_SECONDS),
    "request_prefill_time_seconds": ("From scheduling to the first token.", REQUEST_SECONDS),
    "request_decode_time_seconds": ("From the first token to the last.", REQUEST_SECONDS),
    "request_inference_time_seconds": ("From scheduling to the last token.", REQUEST_SECONDS),
    "iteration_tokens_total": ("Tokens in one step.", STEP_TOKENS),
    "request_prompt_tokens": ("Prompt tokens of finished requests.", REQUEST_TOKENS),
    "request_generation_tokens": ("Tokens that finished requests generated.", REQUEST_TOKENS),
}


class EngineFamilies:
    """The metrics that all engines' timings go to, each under its model's name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.histograms = {
            suffix: Histogram(
                f"quire:{suffix}", text, ["model_name"], buckets=tuple(buckets), registry=registry
            )
            for suffix, (text, buckets) in HISTOGRAMS.items()
        }
        self.request_success = Counter(
            "quire:request_success",
            "Finished requests.",
            ["model_name", "finished_reason"],
            registry=registry,
        )


class EngineMetrics:
    """The timings of one engine.

    Attributes:
        recent_first_token, recent_next_token: What the live view shows, as this process saw it.
    """

    def __init__(self, name: str, engine: AsyncEngine, families: EngineFamilies) -> None:
        self.recent_first_token = RecentTimes()
        self.recent_next_token = RecentTimes()
        self._name = name
        self._success = families.request_success
        self._of = {suffix: family.labels(name) for suffix, family in families.histograms.items()}
        self._num_steps = engine.stats.num_steps
        engine.add_stats_listener(self._after_step)

    def observe_next_token(self, seconds: float) -> None:
        """A request's delta came so long after the one before."""
        self._of["inter_token_latency_seconds"].observe(seconds)
        self.recent_next_token.add(seconds)

    def _after_step(self, stats: EngineStats, finished: Sequence[FinishedRequest]) -> None:
        of = self._of
        if stats.num_steps != self._num_steps:  # otherwise it is a mere sign of life
            self._num_steps = stats.num_steps
            of["iteration_tokens_total"].observe(stats.step_tokens)
        for request in finished:
            self._success.labels(self._name, request.finish_reason).inc()
            of["e2e_request_latency_seconds"].observe(request.e2e_time)
            of["request_queue_time_seconds"].observe(request.queue_time)
            of["request_prompt_tokens"].observe(request.num_prompt_tokens)
            of["request_generation_tokens"].observe(request.num_generation_tokens)
            if request.num_generation_tokens == 0:
                continue  # aborted before its first token: there is no time to it
            of["time_to_first_token_seconds"].observe(request.time_to_first_token)
            if request.num_generation_tokens > 1:
                each = request.decode_time / (request.num_generation_tokens - 1)
                of["request_time_per_output_token_seconds"].observe(each)
            of["request_prefill_time_seconds"].observe(request.prefill_time)
            of["request_decode_time_seconds"].observe(request.decode_time)
            of["request_inference_time_seconds"].observe(request.inference_time)


class EngineCollector(Collector):
    """Reads the engines' latest counters; they start at zero again when an engine restarts.

    Args:
        engines: By name; may change between scrapes.
    """

    def __init__(self, engines: Mapping[str, AsyncEngine]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        """The families, each with a sample of every engine."""
        yield from self._figures()
        yield self._cache_settings()
        yield from self._processes()

    def _figures(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, engine in self._engines.items():
            for suffix, text, value in _gauges(engine):
                gauge = families.setdefault(suffix, _family(GaugeMetricFamily, suffix, text))
                gauge.add_metric([name], value)
            for suffix, text, value in _counters(engine):
                counter = families.setdefault(suffix, _family(CounterMetricFamily, suffix, text))
                counter.add_metric([name], value)
        yield from families.values()

    def _cache_settings(self) -> Metric:
        """What each cache is like, as labels of a constant."""
        info = GaugeMetricFamily(
            "quire:cache_config_info",
            "The KV cache's settings.",
            labels=["model_name", "block_size", "num_gpu_blocks", "cache_dtype", "enable_prefix_caching"],
        )
        for name, engine in self._engines.items():
            config = engine.config
            labels = (
                name,
                config.block_size,
                engine.stats.num_blocks,
                config.kv_cache_dtype,
                config.enable_prefix_caching,
            )
            info.add_metric([str(label) for label in labels], 1.0)
        return info

    def _processes(self) -> Iterator[Metric]:
        """What the engines' processes take of the machine."""
        families: dict[str, Metric] = {}
        for name, engine in self._engines.items():
            for family in _process_metrics(engine):
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    labels = {**sample.labels, "model_name": name}
                    merged.add_sample(sample.name, labels, sample.value)
        yield from families.values()


def _family(kind: type[F], suffix: str, text: str) -> F:
    return kind(f"quire:{suffix}", text, labels=["model_name"])


def _process_metrics(engine: AsyncEngine) -> Iterable[Metric]:
    # The engine may restart, in another process.
    return ProcessCollector(namespace="quire_engine", pid=lambda: engine.stats.pid, registry=None).collect()


def _gauges(engine: AsyncEngine) -> tuple[tuple[str, str, float], ...]:
    stats = engine.stats
    used = 1.0 - stats.num_free_blocks / stats.num_blocks if stats.num_blocks else 0.0
    return (
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
        ("engine_ready", "1 while the engine takes requests.", float(engine.is_ready)),
    )


def _counters(engine: AsyncEngine) -> tuple[tuple[str, str, float], ...]:
    stats = engine.stats
    return (
        ("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_cache_queries),
        ("prefix_cache_hits", "Prompt tokens found.", stats.prefix_cache_hits),
        ("num_preemptions", "Requests put back to make room.", stats.num_preemptions),
        ("prompt_tokens", "Prompt tokens processed.", stats.prompt_tokens),
        ("generation_tokens", "Tokens generated.", stats.generation_tokens),
    )
