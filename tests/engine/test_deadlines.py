"""Deadlines: a request that has run out of time ends, wherever it is, and leaves nothing behind."""

from __future__ import annotations

import pytest

from fakes import EchoRunner, FakeClock, echo_generate, make_request, make_scheduler
from quire.engine.deadlines import Deadlines
from quire.engine.engine import Engine, EngineRequest, split_choices
from quire.engine.sampling_params import SamplingParams
from quire.engine.step_data import TokenDelta

PARAMS = SamplingParams(max_tokens=20, temperature=0.0)


def make_engine(*, is_async: bool, max_num_seqs: int = 4) -> tuple[Engine, FakeClock]:
    clock = FakeClock()
    clock.now = 1000.0
    scheduler = make_scheduler(clock=clock, max_num_seqs=max_num_seqs)
    engine = Engine(
        scheduler,
        EchoRunner(64, 4),
        max_model_len=64,
        eos_token_ids=(),
        async_scheduling=is_async,
        clock=clock,
    )
    return engine, clock


def run(engine: Engine, clock: FakeClock) -> dict[str, list[TokenDelta]]:
    """Steps of one second each, until all is done."""
    deltas: dict[str, list[TokenDelta]] = {}
    while engine.has_unfinished:
        for delta in engine.step():
            deltas.setdefault(delta.request_id, []).append(delta)
        engine.scheduler.check_integrity()
        clock.now += 1.0
    pool = engine.scheduler.block_manager.pool
    assert pool.num_free_blocks == pool.num_blocks
    return deltas


@pytest.mark.parametrize("is_async", [False, True])
def test_a_running_request_ends_at_its_deadline_and_others_go_on(is_async: bool) -> None:
    engine, clock = make_engine(is_async=is_async)
    engine.add_request(EngineRequest("late", [1, 2, 3], PARAMS, timeout=5.0))
    engine.add_request(EngineRequest("free", [4, 5, 6], PARAMS))
    engine.add_request(EngineRequest("early", [7, 8], PARAMS, timeout=50.0))
    deltas = run(engine, clock)
    last = deltas["late"][-1]
    assert (last.finish_reason, last.error, last.token_ids) == ("error", "deadline_exceeded", [])
    tokens = [token for delta in deltas["late"] for token in delta.token_ids]
    assert 0 < len(tokens) <= 5
    assert tokens == echo_generate([1, 2, 3], 20)[: len(tokens)]
    for name, prompt in (("free", [4, 5, 6]), ("early", [7, 8])):
        assert [t for delta in deltas[name] for t in delta.token_ids] == echo_generate(prompt, 20)
        assert deltas[name][-1].finish_reason == "length"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_waiting_request_ends_at_its_deadline(is_async: bool) -> None:
    engine, clock = make_engine(is_async=is_async, max_num_seqs=1)
    engine.add_request(EngineRequest("runs", [1, 2, 3], PARAMS))
    for request in split_choices(["a", "b"], [4, 5], PARAMS, timeout=5.0):  # b waits for its leader
        engine.add_request(request)
    deltas = run(engine, clock)
    for name in ("a", "b"):
        (only,) = deltas[name]
        assert (only.finish_reason, only.error) == ("error", "deadline_exceeded")
    assert deltas["runs"][-1].finish_reason == "length"


@pytest.mark.parametrize("is_async", [False, True])
def test_the_last_request_may_run_out_of_time(is_async: bool) -> None:
    engine, clock = make_engine(is_async=is_async)
    engine.add_request(EngineRequest("only", [1, 2, 3], PARAMS, timeout=3.0))
    deltas = run(engine, clock)
    assert deltas["only"][-1].error == "deadline_exceeded"
    assert not engine.has_work


def test_time_counts_from_arrival() -> None:
    engine, clock = make_engine(is_async=False)
    engine.add_request(EngineRequest("old", [1, 2, 3], PARAMS, arrival_time=clock.now - 10, timeout=5.0))
    assert engine.seconds_to_deadline == 0.0
    assert engine.has_work
    (delta,) = run(engine, clock)["old"]
    assert delta.error == "deadline_exceeded"
    assert engine.seconds_to_deadline is None


def test_a_request_without_a_grammar_yet_makes_work_when_its_time_is_over() -> None:
    engine, clock = make_engine(is_async=False)
    engine.add_request(EngineRequest("waits", [1, 2, 3], PARAMS, timeout=5.0))
    request = engine.scheduler.requests["waits"]
    engine.scheduler.waiting.remove(request)
    request.awaits_grammar = True
    engine.scheduler.waiting.push(request)
    assert not engine.has_work
    assert engine.seconds_to_deadline == 5.0
    clock.now += 5.0
    assert engine.has_work
    assert [delta.error for delta in engine.step()] == ["deadline_exceeded"]
    assert not engine.has_unfinished


def test_requests_that_ended_in_time_are_forgotten() -> None:
    deadlines = Deadlines()
    for i in range(2000):
        request = make_request(f"r{i}", [1], arrival=i)
        request.deadline = 1000.0 + i
        scheduler = make_scheduler()
        scheduler.add(request)
        deadlines.add(request)
        scheduler.abort(request.request_id)
    assert len(deadlines._heap) < 200  # pyright: ignore[reportPrivateUsage]
    assert deadlines.next is None
    assert deadlines.take_expired(1e9) == []
