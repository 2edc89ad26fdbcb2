"""What the scheduler promises, one rule at a time. Random schedules are in `test_simulation`."""

from __future__ import annotations

import random

import pytest

from fakes import EchoRunner, FakeClock, echo_generate, make_request, make_scheduler, random_prompt
from quire.engine.request import Request
from quire.engine.sampling_params import SamplingParams
from quire.engine.scheduler import Scheduler
from quire.engine.step_data import ModelRunnerOutput, SchedulerOutput, TokenDelta
from quire.errors import Overloaded


def run_step(scheduler: Scheduler, runner: EchoRunner) -> tuple[SchedulerOutput, list[TokenDelta]]:
    scheduled = scheduler.schedule()
    deltas = scheduler.update(scheduled, runner.execute(scheduled))
    scheduler.check_integrity()
    return scheduled, deltas


def run_to_end(scheduler: Scheduler) -> dict[str, list[int]]:
    pool = scheduler.block_manager.pool
    runner = EchoRunner(pool.num_blocks, scheduler.block_manager.block_size)
    outputs: dict[str, list[int]] = {}
    while scheduler.has_unfinished:
        for delta in run_step(scheduler, runner)[1]:
            outputs.setdefault(delta.request_id, []).extend(delta.token_ids)
    return outputs


def chunk_sizes(scheduled: SchedulerOutput) -> dict[str, int]:
    return {chunk.request.request_id: chunk.end - chunk.start for chunk in scheduled.chunks}


def test_a_long_prompt_is_computed_in_chunks_and_decoding_goes_first() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=8)
    runner = EchoRunner(64, 4)
    scheduler.add(make_request("short", [1, 2], arrival=0))
    run_step(scheduler, runner)
    scheduler.add(make_request("long", list(range(20)), arrival=1))
    sizes = [chunk_sizes(run_step(scheduler, runner)[0]) for _ in range(3)]
    assert sizes == [{"short": 1, "long": 7}, {"short": 1, "long": 7}, {"short": 1, "long": 6}]


def test_prompts_come_in_small_chunks_while_others_decode() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=40, max_num_prefill_tokens=3, num_blocks=256)
    runner = EchoRunner(256, 4)
    scheduler.add(make_request("first", list(range(30)), arrival=0))
    assert chunk_sizes(run_step(scheduler, runner)[0]) == {"first": 30}  # nobody decodes
    scheduler.add(make_request("second", list(range(40, 44)), arrival=1))
    scheduler.add(make_request("third", list(range(60, 62)), arrival=2))
    sizes = [chunk_sizes(run_step(scheduler, runner)[0]) for _ in range(3)]
    assert sizes[0] == {"first": 1, "second": 3}
    assert sizes[1] == {"first": 1, "second": 1, "third": 2}
    assert sizes[2] == {"first": 1, "second": 1, "third": 1}


def test_a_tenant_of_whom_nobody_decodes_may_take_more_of_a_step() -> None:
    sizes: dict[str, dict[str, int]] = {}
    for tenant in ("flood", "light"):
        scheduler = make_scheduler(max_num_batched_tokens=64, max_num_prefill_tokens=8, num_blocks=256)
        runner = EchoRunner(256, 4)
        for i in range(3):
            scheduler.add(make_request(str(i), [i, i + 1], arrival=i, tenant="flood"))
        run_step(scheduler, runner)
        scheduler.add(make_request("long", list(range(60)), arrival=3, tenant=tenant))
        sizes[tenant] = chunk_sizes(run_step(scheduler, runner)[0])
    assert sizes["flood"]["long"] == 8
    assert sizes["light"]["long"] == 16


def test_many_that_decode_let_more_of_a_prompt_in() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=64, max_num_prefill_tokens=3, num_blocks=256)
    runner = EchoRunner(256, 4)
    for i in range(10):
        scheduler.add(make_request(str(i), [i, i + 1], arrival=i))
    run_step(scheduler, runner)
    scheduler.add(make_request("long", list(range(60)), arrival=10))
    sizes = chunk_sizes(run_step(scheduler, runner)[0])
    assert sizes["long"] == 20
    assert sum(sizes.values()) == 30


def test_only_the_chunk_that_reaches_the_prompts_end_samples() -> None:
    scheduler = make_scheduler(max_num_batched_tokens=4)
    scheduler.add(make_request("a", list(range(6))))
    runner = EchoRunner(64, 4)
    assert [chunk.samples for chunk in run_step(scheduler, runner)[0].chunks] == [False]
    assert [chunk.samples for chunk in run_step(scheduler, runner)[0].chunks] == [True]


def test_equal_prefixes_are_computed_once() -> None:
    scheduler = make_scheduler(block_size=4)
    prompt = list(range(13))
    scheduler.add(make_request("first", prompt, max_tokens=1, arrival=0))
    run_to_end(scheduler)
    request = make_request("second", prompt, max_tokens=1, arrival=1)
    scheduler.add(request)
    assert chunk_sizes(scheduler.schedule()) == {"second": 1}
    assert request.num_cached_tokens == 12


def test_a_fully_cached_prompt_still_computes_its_last_block() -> None:
    scheduler = make_scheduler(block_size=4)
    for arrival in range(2):
        scheduler.add(make_request(f"r{arrival}", list(range(8)), max_tokens=1, arrival=arrival))
        if arrival == 0:
            run_to_end(scheduler)
    assert chunk_sizes(scheduler.schedule()) == {"r1": 4}


def test_another_salt_shares_nothing() -> None:
    scheduler = make_scheduler(block_size=4)
    scheduler.add(make_request("first", list(range(12)), max_tokens=1, cache_salt="a"))
    run_to_end(scheduler)
    request = make_request("second", list(range(12)), max_tokens=1, arrival=1, cache_salt="b")
    scheduler.add(request)
    assert chunk_sizes(scheduler.schedule()) == {"second": 12}
    assert request.num_cached_tokens == 0


def test_choices_wait_for_their_leader_and_share_its_blocks() -> None:
    scheduler = make_scheduler(block_size=4)
    prompt = list(range(14))
    leader = make_request("c0", prompt, arrival=0)
    scheduler.add(leader)
    followers = [make_request(f"c{i}", prompt, arrival=i, leader=leader) for i in (1, 2)]
    for follower in followers:
        scheduler.add(follower)
    runner = EchoRunner(64, 4)
    assert chunk_sizes(run_step(scheduler, runner)[0]) == {"c0": 14}
    assert chunk_sizes(run_step(scheduler, runner)[0]) == {"c0": 1, "c1": 2, "c2": 2}
    assert followers[0].block_ids[:3] == followers[1].block_ids[:3] == leader.block_ids[:3]


def test_followers_of_an_aborted_leader_run_on_their_own() -> None:
    scheduler = make_scheduler()
    leader = make_request("c0", [1, 2, 3], arrival=0)
    scheduler.add(leader)
    scheduler.add(make_request("c1", [1, 2, 3], arrival=1, leader=leader))
    scheduler.abort("c0")
    assert run_to_end(scheduler)["c1"] == echo_generate([1, 2, 3], 8)


def test_better_priority_runs_first_and_preempts() -> None:
    scheduler = make_scheduler(num_blocks=8, block_size=4, max_num_batched_tokens=100)
    runner = EchoRunner(8, 4)
    scheduler.add(make_request("low", list(range(12)), max_tokens=16, arrival=0, priority=1))
    run_step(scheduler, runner)
    scheduler.add(make_request("high", list(range(50, 58)), max_tokens=12, arrival=1, priority=0))
    outputs: dict[str, list[int]] = {"low": echo_generate(list(range(12)), 1)}
    order: list[str] = []
    while scheduler.has_unfinished:
        for delta in run_step(scheduler, runner)[1]:
            outputs.setdefault(delta.request_id, []).extend(delta.token_ids)
            if delta.finish_reason:
                order.append(delta.request_id)
    assert scheduler.num_preemptions > 0
    assert order == ["high", "low"]
    assert outputs["low"] == echo_generate(list(range(12)), 16)
    assert outputs["high"] == echo_generate(list(range(50, 58)), 12)


@pytest.mark.parametrize("seed", [0, 1, 3, 5])
def test_ten_times_oversubscribed_everyone_finishes_with_few_preemptions(seed: int) -> None:
    rng = random.Random(seed)
    scheduler = make_scheduler(num_blocks=64, block_size=2, max_num_seqs=64, max_num_batched_tokens=256)
    requests = [
        make_request(
            f"r{i}", random_prompt(rng, rng.randrange(1, 8)), max_tokens=rng.randrange(1, 110), arrival=i
        )
        for i in range(60)
    ]
    for request in requests:
        scheduler.add(request)
    outputs = run_to_end(scheduler)
    assert scheduler.num_preemptions > 60
    for request in requests:
        prompt, length = request.token_ids[: request.num_prompt_tokens], request.num_output_tokens
        assert length == request.max_num_tokens - request.num_prompt_tokens
        assert outputs[request.request_id] == echo_generate(prompt, length)
        assert request.num_preemptions <= 5, request


def test_a_full_queue_refuses() -> None:
    scheduler = make_scheduler(max_num_waiting=2)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [1], arrival=i))
    with pytest.raises(Overloaded, match="2 requests are waiting"):
        scheduler.add(make_request("r2", [1], arrival=2))


def test_clients_that_come_and_go_leave_nothing_in_the_queue() -> None:
    scheduler = make_scheduler(num_blocks=8, block_size=4)
    runner = EchoRunner(8, 4)
    scheduler.add(make_request("head", list(range(20)), max_tokens=12, arrival=0))
    run_step(scheduler, runner)
    for i in range(1, 2000):
        scheduler.add(make_request(f"r{i}", list(range(20)), arrival=i))
        scheduler.abort(f"r{i}")
    assert len(scheduler.waiting) == 0
    heaps = scheduler.waiting._heaps  # pyright: ignore[reportPrivateUsage]
    assert sum(map(len, heaps.values())) < 200
    assert len(scheduler.take_finished()) == 1999


def test_stop_tokens_end_a_request_but_not_before_min_tokens() -> None:
    expected = echo_generate([5], 8)
    for min_tokens, length in ((0, 3), (2, 3), (3, 8)):
        scheduler = make_scheduler()
        params = SamplingParams(
            max_tokens=8, min_tokens=min_tokens, temperature=0.0, stop_token_ids=[expected[2]]
        )
        scheduler.add(Request("r", [5], params, max_model_len=64))
        assert len(run_to_end(scheduler)["r"]) == length


def test_a_failed_request_ends_alone_and_its_blocks_are_not_cached() -> None:
    scheduler = make_scheduler(block_size=4)
    runner = EchoRunner(64, 4)
    runner.fail = lambda request: "numerical_error" if request.request_id == "bad" else None
    scheduler.add(make_request("bad", list(range(12)), arrival=0))
    scheduler.add(make_request("good", list(range(20, 32)), arrival=1))
    deltas = run_step(scheduler, runner)[1]
    assert {d.request_id: d.finish_reason for d in deltas} == {"bad": "error", "good": None}
    assert deltas[0].error == "numerical_error"
    assert scheduler.block_manager.pool.num_cached_blocks == 3


def test_a_request_aborted_while_its_step_runs_has_no_event_after_its_end() -> None:
    scheduler = make_scheduler()
    scheduler.add(make_request("r", [1, 2, 3]))
    scheduled = scheduler.schedule()
    scheduler.abort("r")
    assert scheduler.update(scheduled, ModelRunnerOutput([7])) == []
    assert scheduler.schedule().released == ["r"]


def test_figures_of_a_finished_request() -> None:
    clock = FakeClock()
    scheduler = make_scheduler(clock=clock)
    runner = EchoRunner(64, 4)
    scheduler.add(make_request("r", [1, 2, 3], max_tokens=3))
    clock.now = 2.0
    while scheduler.has_unfinished:
        scheduled = scheduler.schedule()
        clock.now += 1.0
        scheduler.update(scheduled, runner.execute(scheduled))
    (figures,) = scheduler.take_finished()
    assert figures.finish_reason == "length"
    assert (figures.queue_time, figures.prefill_time, figures.decode_time) == (2.0, 1.0, 2.0)
    assert (figures.num_prompt_tokens, figures.num_generation_tokens) == (3, 3)
