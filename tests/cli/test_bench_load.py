"""Loads in simulated time: every figure is known to the last digit."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import random
import statistics
from array import array

import pytest

from quire.cli.bench.arrivals import send_times
from quire.cli.bench.load import LoadGenerator, LoadRun
from quire.cli.bench.load_settings import LoadSettings
from quire.cli.bench.metrics import Distribution, parse_limits, summarize
from quire.cli.bench.sample import BenchRequest, Sample
from quire.cli.bench.serve import planned_times

from .bench_tools import FakeSender, simulate

REQUESTS = [BenchRequest("x", 1)] * 100_000


def open_loop(sender: FakeSender, times: list[float], **options: object) -> LoadRun:
    async def run() -> LoadRun:
        return await LoadGenerator(sender, **options).open_loop(REQUESTS, times)  # type: ignore[arg-type]

    return simulate(run())


def closed_loop(sender: FakeSender, num: int, concurrency: int, **options: float) -> LoadRun:
    async def run() -> LoadRun:
        return await LoadGenerator(sender).closed_loop(REQUESTS[:num], concurrency, **options)

    return simulate(run())


def figures(distribution: Distribution | None) -> tuple[float, ...]:
    assert distribution is not None
    return dataclasses.astuple(distribution)


def test_the_open_loop_sends_on_time_whatever_the_server_does() -> None:
    sender = FakeSender(lambda _index, _now: (100.0,))
    run = open_loop(sender, [0.5, 0.5, 2.0, 7.25])
    assert sender.sent == [0.5, 0.5, 2.0, 7.25]
    assert run.duration == 107.25
    assert [sample.e2e for sample in run.samples] == [100.0] * 4
    assert summarize(run).max_concurrency == 4


def test_latencies_are_exact() -> None:
    # Request i needs (i + 1) ms for its first token and 2 ms for each of three more.
    sender = FakeSender(lambda index, _now: ((index + 1) / 1000, 0.002, 0.002, 0.002))
    summary = summarize(open_loop(sender, [float(i) for i in range(101)]), {"ttft": 51.5, "e2e": 56.5})
    assert figures(summary.ttft) == pytest.approx((101, 51.0, 1.0, 51.0, 91.0, 100.0, 101.0))
    assert figures(summary.e2e) == pytest.approx((101, 57.0, 7.0, 57.0, 97.0, 106.0, 107.0))
    assert figures(summary.tpot) == pytest.approx((101, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0))
    assert figures(summary.itl_chunks) == pytest.approx((303, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0))
    assert summary.itl_tokens == summary.itl_chunks
    assert summary.output_tokens == 404
    assert summary.duration == pytest.approx(100.107)
    assert summary.output_tokens_per_second == pytest.approx(404 / 100.107)
    assert summary.requests_per_second == pytest.approx(101 / 100.107)
    assert summary.goodput is not None
    assert summary.goodput.num_good == 50  # of 51 that keep the first limit, 50 keep the second
    assert summary.goodput.fraction == pytest.approx(50 / 101)


def test_a_stall_is_seen_by_the_requests_that_it_kept_from_being_sent() -> None:
    """Coordinated omission: one stall of 10 s, and a client that can have only one request at once.

    1000 requests are due, one each 100 ms; an answer takes 1 ms. During the stall 100 requests fall due.
    """

    def answer(index: int, _now: float) -> tuple[float, ...]:
        return (10.0,) if index == 100 else (0.001,)

    times = [i / 10 for i in range(1000)]
    summary = summarize(open_loop(FakeSender(answer), times, max_concurrency=1))
    assert summary.service_e2e is not None
    assert summary.service_e2e.p99 == pytest.approx(1.0)  # counted from sending, the stall hides
    assert summary.service_e2e.max == pytest.approx(10_000.0)
    assert summary.e2e is not None
    # Request 100 + i waits 10 s - 100 ms x i, and 1 ms for each of those before it.
    waits = sorted((10.0 - 0.1 * i + 0.001 * i) * 1e3 for i in range(101))
    assert summary.e2e.p99 == pytest.approx(waits[-11] + 0.01 * (waits[-10] - waits[-11]))
    assert summary.e2e.p99 > 9000.0
    assert summary.e2e.max == pytest.approx(10_000.0)
    assert summary.queued is not None
    assert summary.queued.max == pytest.approx(9900.0)  # the first that fell due during the stall
    assert summary.lag is not None
    assert summary.lag.max == pytest.approx(0.0, abs=1e-6)


def test_a_generator_that_is_late_says_so() -> None:
    class Busy(FakeSender):
        """Takes the generator's own thread for 30 ms at every request."""

        async def send(self, request: BenchRequest, sample: Sample) -> None:
            asyncio.get_running_loop()._instant.now += 0.03  # type: ignore[attr-defined]
            await super().send(request, sample)

    summary = summarize(open_loop(Busy(lambda _index, _now: (0.0,)), [0.0] * 5))
    assert summary.lag is not None
    assert summary.lag.max == pytest.approx(120.0)  # the fifth came after four times 30 ms
    assert summary.ttft is not None
    assert summary.ttft.max == pytest.approx(150.0)


def test_the_closed_loop_keeps_so_many_requests_running() -> None:
    sender = FakeSender(lambda _index, _now: (1.0, 1.0))
    summary = summarize(closed_loop(sender, 12, 4))
    assert sender.sent == [0.0] * 4 + [2.0] * 4 + [4.0] * 4
    assert (summary.duration, summary.num_ok) == (6.0, 12)
    assert (summary.mean_concurrency, summary.max_concurrency) == (pytest.approx(4.0), 4)
    assert summary.output_tokens_per_second == pytest.approx(4.0)
    busy = summary.timeline.concurrency
    assert busy == pytest.approx([4.0] * len(busy))
    tokens = summary.timeline.output_tokens_per_second
    assert sum(tokens) * summary.timeline.bin_seconds == pytest.approx(24.0)
    assert sum(summary.timeline.finished_per_second) * summary.timeline.bin_seconds == pytest.approx(12.0)


def test_clients_of_the_closed_loop_begin_one_after_the_other() -> None:
    sender = FakeSender(lambda _index, _now: (100.0,))
    closed_loop(sender, 4, 4, ramp=8.0)
    assert sender.sent == [0.0, 2.0, 4.0, 6.0]


def test_the_closed_loop_ends_with_the_time() -> None:
    sender = FakeSender(lambda _index, _now: (3.0,))
    run = closed_loop(sender, 1000, 1, duration=10.0)
    assert sender.sent == [0.0, 3.0, 6.0, 9.0]
    assert run.duration == 12.0  # the last answer is waited for
    assert not run.interrupted


def test_a_request_that_takes_too_long_fails_and_frees_its_client() -> None:
    sender = FakeSender(lambda index, _now: (1.0, 50.0) if index == 0 else (1.0,))

    async def run() -> LoadRun:
        return await LoadGenerator(sender, timeout=5.0).closed_loop(REQUESTS[:3], 1)

    summary = summarize(simulate(run()))
    assert sender.sent == [0.0, 5.0, 6.0]
    assert summary.errors == {"timeout": 1}
    assert (summary.num_ok, summary.num_failed, summary.num_unfinished) == (2, 1, 0)
    assert summary.output_tokens == 2
    assert "5 s" in summary.error_examples["timeout"]


def test_stopping_keeps_what_was_measured() -> None:
    sender = FakeSender(lambda _index, _now: (1.0, 1.0, 1.0))

    async def run() -> LoadRun:
        generator = LoadGenerator(sender)
        asyncio.get_running_loop().call_later(4.5, generator.stop.set)
        return await generator.open_loop(REQUESTS, [0.0, 1.0, 3.0, 20.0])

    result = simulate(run())
    assert result.interrupted
    assert result.duration == 4.5
    summary = summarize(result)
    # The fourth was not due yet, and is nobody's failure.
    assert (summary.num_requests, summary.num_ok, summary.num_unfinished, summary.num_failed) == (3, 2, 1, 0)
    assert summary.output_tokens == 3 + 3 + 1


def test_a_defect_of_the_generator_is_no_failed_request() -> None:
    class Broken(FakeSender):
        async def send(self, request: BenchRequest, sample: Sample) -> None:
            raise KeyError("a defect")

    with pytest.raises(ExceptionGroup) as caught:
        open_loop(Broken(lambda _index, _now: ()), [0.0])
    assert caught.group_contains(KeyError)


# When requests are sent.


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise([0.0, *times])]


def test_poisson_gaps_are_those_of_the_seed() -> None:
    times = list(itertools.islice(send_times(4.0, random.Random(7)), 5))
    rng = random.Random(7)
    assert gaps(times) == pytest.approx([rng.expovariate(1.0) / 4.0 for _ in range(5)])
    assert times != list(itertools.islice(send_times(4.0, random.Random(8)), 5))


@pytest.mark.parametrize(("burstiness", "variation"), [(1.0, 1.0), (0.25, 2.0), (4.0, 0.5)])
def test_gaps_have_the_rate_and_the_burstiness(burstiness: float, variation: float) -> None:
    times = list(itertools.islice(send_times(10.0, random.Random(1), burstiness=burstiness), 40_000))
    each = gaps(times)
    mean = statistics.fmean(each)
    assert mean == pytest.approx(0.1, rel=0.03)
    assert statistics.pstdev(each) / mean == pytest.approx(variation, rel=0.03)


def test_even_gaps_and_all_at_once() -> None:
    rng = random.Random(0)
    assert list(itertools.islice(send_times(2.0, rng, burstiness=math.inf), 3)) == [0.5, 1.0, 1.5]
    assert list(itertools.islice(send_times(math.inf, rng), 3)) == [0.0] * 3


def test_the_rate_grows_linearly() -> None:
    # From 0 to 10 requests/s in 20 s: t seconds after the beginning, t^2 / 4 requests have come.
    times = list(itertools.islice(send_times(10.0, random.Random(0), burstiness=math.inf, ramp=20.0), 300))
    assert times[24] == pytest.approx(10.0)
    assert times[99] == pytest.approx(20.0)
    assert gaps(times)[150] == pytest.approx(0.1)


def test_planned_times_end_with_the_duration_and_the_number() -> None:
    load = LoadSettings(request_rate=2.0, burstiness=math.inf, duration=1.6)
    assert planned_times(load, None, random.Random(0)) == [0.5, 1.0, 1.5]
    load = LoadSettings(request_rate=2.0, burstiness=math.inf, num_prompts=2)
    assert planned_times(load, None, random.Random(0)) == [0.5, 1.0]


# What is known of tokens.


def sample(times: list[float], tokens: list[int], completion_tokens: int | None = None) -> Sample:
    return Sample(
        0,
        0.0,
        0.0,
        0.0,
        chunk_times=array("d", times),
        chunk_tokens=array("q", tokens),
        finished=times[-1],
        ended=times[-1],
        completion_tokens=completion_tokens,
    )


def test_gaps_between_tokens_where_chunks_say_how_many_they_have() -> None:
    spread = sample([1.0, 2.0, 5.0], [1, 1, 3], 5)
    assert spread.chunk_gaps() == [1.0, 3.0]
    assert spread.token_gaps() == [1.0, 1.0, 1.0, 1.0]
    assert spread.tpot == 1.0


def test_gaps_between_tokens_where_usage_says_that_each_chunk_has_one() -> None:
    assert sample([1.0, 2.0, 5.0], [-1, -1, -1], 3).token_gaps() == [1.0, 3.0]
    assert sample([1.0, 2.0, 5.0], [-1, -1, -1], 4).token_gaps() is None
    assert sample([1.0, 2.0, 5.0], [-1, -1, -1]).token_gaps() is None


def test_tokens_are_counted_from_the_best_source() -> None:
    assert (sample([1.0, 2.0], [-1, -1], 7).num_output_tokens) == 7
    ids = sample([1.0, 2.0], [2, 3])
    assert (ids.token_source, ids.num_output_tokens) == ("token_ids", 5)
    guessed = sample([1.0, 2.0], [-1, 3])
    assert (guessed.token_source, guessed.num_output_tokens) == ("chunks", 2)
    assert sample([1.0], [1], 1).tpot is None


def test_a_measurement_of_nothing() -> None:
    summary = summarize(LoadRun(0.0, 0.0, []), {"ttft": 1.0})
    assert (summary.num_requests, summary.output_tokens_per_second, summary.ttft) == (0, 0.0, None)
    assert summary.goodput is not None
    assert summary.goodput.fraction == 0.0


def test_limits() -> None:
    assert parse_limits(["ttft:300 tpot:50.5", "e2el:1000"]) == {"ttft": 300.0, "tpot": 50.5, "e2e": 1000.0}
    for wrong in (["ttft"], ["itl:5"], ["ttft:0"], ["ttft:-1"], ["ttft:1", "ttft:2"], ["e2e:1,e2el:1"], [""]):
        with pytest.raises(ValueError, match="limit"):
            parse_limits(wrong)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"request_rate": 0.0}, "request_rate"),
        ({"request_rate": math.nan}, "request_rate"),
        ({"concurrency": 0}, "concurrency"),
        ({"request_rate": 1.0, "concurrency": 1}, "concurrency"),
        ({"burstiness": 2.0}, "burstiness"),
        ({"time_scale": 2.0}, "time_scale"),
        ({"max_concurrency": 2}, "max_concurrency"),
        ({"ramp": -1.0}, "ramp"),
        ({"ramp": math.nan}, "ramp"),
        ({"request_rate": math.inf, "duration": 1.0}, "num_prompts"),
        ({"request_rate": math.inf, "ramp": 1.0}, "ramp"),
        ({"timeout": math.inf}, "timeout"),
        ({"extra_body": "[1]"}, "extra_body"),
        ({"extra_body": '{"stream": false}'}, "stream"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LoadSettings(**settings)  # type: ignore[arg-type]
