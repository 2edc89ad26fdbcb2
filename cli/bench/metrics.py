"""From samples to figures. Percentiles are of all samples; nothing is put into buckets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .load import LoadRun
from .sample import Sample

PERCENTILES = (50, 90, 99)
NUM_BINS = 100
LIMITED = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2e", "e2el": "e2e"}
"""What a goodput limit can be about; the last name is vLLM's."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of one latency, in milliseconds. Percentiles are interpolated between neighbouring samples."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Distribution | None:
        """None where there is no sample."""
        if not seconds:
            return None
        import numpy as np

        values = np.asarray(seconds, dtype=np.float64) * 1e3
        p50, p90, p99 = (float(value) for value in np.percentile(values, PERCENTILES))
        return cls(
            len(seconds), float(values.mean()), float(values.min()), p50, p90, p99, float(values.max())
        )


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests that keep all limits.

    Attributes:
        limits: Milliseconds, by "ttft", "tpot" and "e2e".
        num_good: Such requests.
        fraction: Their share of all requests that were sent and not cut off by the measurement's end.
        per_second: Their rate.
    """

    limits: dict[str, float]
    num_good: int
    fraction: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What happened in equal pieces of the measurement.

    Attributes:
        bin_seconds: The length of a piece.
        output_tokens_per_second: Tokens that came, of all requests.
        concurrency: Requests that were running, on average over the piece.
        finished_per_second: Requests that ended well.
    """

    bin_seconds: float
    output_tokens_per_second: list[float]
    concurrency: list[float]
    finished_per_second: list[float]


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a measurement. Latencies are of requests whose whole answer came.

    Attributes:
        duration: Seconds from the beginning to the end of the last answer.
        num_requests: All that were sent.
        num_unfinished: Still running when the measurement was stopped; not counted as failed.
        errors: Failed requests by kind.
        error_examples: By kind, the words of one failure.
        prompt_tokens: As the server counts them; None if it does not.
        output_tokens: Of whole answers, and of those still running at the end.
        token_sources: Requests by where their number of output tokens comes from.
        ttft, tpot, e2e: From the intended time of sending.
        itl_chunks: Gaps between the pieces of an answer.
        itl_tokens: Gaps between tokens; None unless it is known how many tokens each piece has.
        service_e2e: As `e2e`, from the time at which the request was really sent.
        lag: How late the generator itself came to a request.
        queued: How long requests waited for others, where there is a limit of requests at once.
    """

    duration: float
    num_requests: int
    num_ok: int
    num_failed: int
    num_unfinished: int
    errors: dict[str, int]
    error_examples: dict[str, str]
    prompt_tokens: int | None
    output_tokens: int
    token_sources: dict[str, int]
    requests_per_second: float
    prompt_tokens_per_second: float | None
    output_tokens_per_second: float
    mean_concurrency: float
    max_concurrency: int
    ttft: Distribution | None
    tpot: Distribution | None
    itl_chunks: Distribution | None
    itl_tokens: Distribution | None
    e2e: Distribution | None
    service_e2e: Distribution | None
    lag: Distribution | None
    queued: Distribution | None
    goodput: Goodput | None
    timeline: Timeline = field(repr=False)


@dataclass(frozen=True, slots=True)
class Latencies:
    """The samples behind the distributions, in seconds."""

    ttft: list[float]
    tpot: list[float]
    itl_chunks: list[float]
    itl_tokens: list[float] | None
    e2e: list[float]

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Latencies:
        """Those of whole answers."""
        ok = [sample for sample in samples if sample.is_ok]
        gaps = [sample.token_gaps() for sample in ok]
        known = [each for each in gaps if each is not None]
        return cls(
            ttft=[sample.ttft for sample in ok],
            tpot=[tpot for sample in ok if (tpot := sample.tpot) is not None],
            itl_chunks=[gap for sample in ok for gap in sample.chunk_gaps()],
            itl_tokens=[gap for each in known for gap in each] if len(known) == len(gaps) else None,
            e2e=[sample.e2e for sample in ok],
        )


def summarize(run: LoadRun, limits: dict[str, float] | None = None) -> Summary:
    """The figures of a measurement.

    Args:
        run: The measurement.
        limits: Goodput limits in milliseconds, as `parse_limits` gives them.
    """
    samples = run.samples
    ok = [sample for sample in samples if sample.is_ok]
    failed = [sample for sample in samples if sample.error is not None]
    counted = [sample for sample in samples if sample.error is None]
    seconds = run.duration or float("inf")
    prompt_tokens = _prompt_tokens(ok)
    output_tokens = sum(sample.num_output_tokens for sample in counted)
    latencies = Latencies.of(ok)
    mean_concurrency, max_concurrency = _concurrency(run)
    return Summary(
        duration=run.duration,
        num_requests=len(samples),
        num_ok=len(ok),
        num_failed=len(failed),
        num_unfinished=len(samples) - len(ok) - len(failed),
        errors=dict(Counter(sample.error or "" for sample in failed).most_common()),
        error_examples={sample.error or "": sample.detail for sample in reversed(failed)},
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        token_sources=dict(Counter(sample.token_source for sample in ok)),
        requests_per_second=len(ok) / seconds,
        prompt_tokens_per_second=None if prompt_tokens is None else prompt_tokens / seconds,
        output_tokens_per_second=output_tokens / seconds,
        mean_concurrency=mean_concurrency,
        max_concurrency=max_concurrency,
        ttft=Distribution.of(latencies.ttft),
        tpot=Distribution.of(latencies.tpot),
        itl_chunks=Distribution.of(latencies.itl_chunks),
        itl_tokens=Distribution.of(latencies.itl_tokens or []),
        e2e=Distribution.of(latencies.e2e),
        service_e2e=Distribution.of([sample.e2e - (sample.started - sample.intended) for sample in ok]),
        lag=Distribution.of([sample.begun - sample.intended for sample in samples if _is_begun(sample)]),
        queued=Distribution.of([sample.started - sample.begun for sample in samples if _is_started(sample)]),
        goodput=_goodput(ok, len(ok) + len(failed), seconds, limits) if limits else None,
        timeline=timeline(run),
    )


def parse_limits(texts: Iterable[str]) -> dict[str, float]:
    """Reads goodput limits such as "ttft:300" or "ttft:300 tpot:50".

    Returns:
        Milliseconds by name.

    Raises:
        ValueError: A limit is malformed, unknown or there twice; names it.
    """
    limits: dict[str, float] = {}
    for text in re.split(r"[\s,]+", " ".join(texts).strip()):
        match = re.fullmatch(r"(\w+):(\d+(?:\.\d+)?)", text)
        if match is None or match[1] not in LIMITED or float(match[2]) <= 0:
            raise ValueError(f"{text!r} is no limit; one is ttft:300, tpot:50 or e2e:2000, in milliseconds")
        name = LIMITED[match[1]]
        if name in limits:
            raise ValueError(f"{name} has two limits")
        limits[name] = float(match[2])
    return limits


def timeline(run: LoadRun, num_bins: int = NUM_BINS) -> Timeline:
    """What happened when."""
    width = run.duration / num_bins
    tokens, busy, finished = ([0.0] * num_bins for _ in range(3))
    if width <= 0:
        return Timeline(0.0, tokens, busy, finished)

    def place(time: float) -> int:
        return min(num_bins - 1, max(0, int((time - run.origin) / width)))

    for sample in run.samples:
        each = sample.num_output_tokens / len(sample.chunk_times) if sample.chunk_times else 0.0
        for time, count in zip(sample.chunk_times, sample.chunk_tokens, strict=True):
            tokens[place(time)] += count if count >= 0 else each
        if sample.is_ok:
            finished[place(sample.finished or 0.0)] += 1.0
    for begin, end in _spans(run):
        for index in range(place(begin), place(end) + 1):
            low = run.origin + index * width
            busy[index] += max(0.0, min(end, low + width) - max(begin, low))
    return Timeline(
        width,
        [value / width for value in tokens],
        [value / width for value in busy],
        [value / width for value in finished],
    )


def _prompt_tokens(ok: Sequence[Sample]) -> int | None:
    counts = [sample.prompt_tokens for sample in ok]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _is_begun(sample: Sample) -> bool:
    return sample.begun == sample.begun  # not NaN


def _is_started(sample: Sample) -> bool:
    return sample.started == sample.started


def _spans(run: LoadRun) -> list[tuple[float, float]]:
    """From when to when each request was running."""
    return [
        (sample.started, run.ended if sample.ended is None else min(sample.ended, run.ended))
        for sample in run.samples
        if _is_started(sample)
    ]


def _concurrency(run: LoadRun) -> tuple[float, int]:
    """Requests running at once: their mean over the measurement, and the most."""
    spans = _spans(run)
    mean = sum(end - begin for begin, end in spans) / run.duration if run.duration > 0 else 0.0
    changes = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    running = most = 0
    for _, change in changes:  # at the same time, those that end come first
        running += change
        most = max(most, running)
    return mean, most


def _goodput(ok: Sequence[Sample], num_all: int, seconds: float, limits: dict[str, float]) -> Goodput:
    num_good = sum(_keeps(sample, limits) for sample in ok)
    return Goodput(limits, num_good, num_good / num_all if num_all else 0.0, num_good / seconds)


def _keeps(sample: Sample, limits: dict[str, float]) -> bool:
    values = {"ttft": sample.ttft, "tpot": sample.tpot or 0.0, "e2e": sample.e2e}
    return all(values[name] * 1e3 <= limit for name, limit in limits.items())
