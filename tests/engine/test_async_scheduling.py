"""Scheduling a step while one runs, one rule at a time. Random schedules are in `test_simulation`."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes import EchoHandle, EchoRunner, echo_generate, make_request, make_scheduler
from quire import LLM, SamplingParams
from quire.engine.engine import Engine
from quire.engine.request import RequestStatus
from quire.engine.scheduler import Scheduler
from quire.engine.step_data import ModelRunnerOutput, SchedulerOutput
from quire.kernels import cpu


class LoggedRunner(EchoRunner):
    """Notes in which order steps are submitted and waited for."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        super().__init__(num_blocks, block_size)
        self.log: list[str] = []
        self.num_steps = 0

    def submit(self, scheduled: SchedulerOutput) -> EchoHandle:
        handle = super().submit(scheduled)
        name, self.num_steps = str(self.num_steps), self.num_steps + 1
        self.log.append(f"submit {name}")
        result = handle.result

        def logged() -> ModelRunnerOutput:
            self.log.append(f"wait {name}")
            return result()

        handle.result = logged  # type: ignore[method-assign]
        return handle


def make_engine(scheduler: Scheduler) -> tuple[Engine, LoggedRunner]:
    manager = scheduler.block_manager
    runner = LoggedRunner(manager.pool.num_blocks, manager.block_size)
    engine = Engine(scheduler, runner, max_model_len=64, eos_token_ids=(), async_scheduling=True)
    return engine, runner


def run_to_end(engine: Engine) -> dict[str, list[int]]:
    outputs: dict[str, list[int]] = {}
    while engine.has_unfinished:
        for delta in engine.step():
            outputs.setdefault(delta.request_id, []).extend(delta.token_ids)
        engine.scheduler.check_integrity()
    pool = engine.scheduler.block_manager.pool
    assert pool.num_free_blocks == pool.num_blocks
    return outputs


def test_a_step_is_submitted_before_the_result_of_the_one_before_is_asked_for() -> None:
    scheduler = make_scheduler()
    engine, runner = make_engine(scheduler)
    scheduler.add(make_request("r", [1, 2, 3], max_tokens=3))
    assert run_to_end(engine) == {"r": echo_generate([1, 2, 3], 3)}
    # The third token is the last, so that there is no fourth step.
    assert runner.log == ["submit 0", "submit 1", "wait 0", "submit 2", "wait 1", "wait 2"]


@pytest.mark.parametrize(
    "params",
    [{"repetition_penalty": 1.5}, {"min_tokens": 2}, {"logit_bias": {3: 1.0}}, {"allowed_token_ids": [3]}],
    ids=str,
)
def test_a_request_whose_logits_depend_on_its_tokens_is_waited_for(params: dict[str, Any]) -> None:
    scheduler = make_scheduler()
    engine, runner = make_engine(scheduler)
    scheduler.add(make_request("r", [1, 2, 3], max_tokens=3, **params))
    run_to_end(engine)
    assert runner.log == ["submit 0", "wait 0", "submit 1", "wait 1", "submit 2", "wait 2"]


def test_a_request_that_stops_is_dropped_from_the_step_that_runs_and_keeps_its_blocks_till_then() -> None:
    expected = echo_generate([1, 2, 3], 8)
    scheduler = make_scheduler(num_blocks=8, block_size=4)
    engine, runner = make_engine(scheduler)
    pool = scheduler.block_manager.pool
    scheduler.add(make_request("stops", [1, 2, 3], stop_token_ids=[expected[1]], arrival=0))
    scheduler.add(make_request("goes on", [5], arrival=1))
    (stops,) = [r for r in scheduler.requests.values() if r.request_id == "stops"]
    engine.step()
    engine.step()
    deltas = engine.step()
    assert [(d.request_id, d.finish_reason) for d in deltas] == [("stops", "stop"), ("goes on", None)]
    assert stops.token_ids == [1, 2, 3, *expected[:2]]
    assert runner.log[-2:] == ["submit 2", "wait 1"], "a step that holds the request still runs"
    assert stops.block_ids, "its blocks are free while a step writes to them"
    assert pool.num_free_blocks == 8 - len(stops.block_ids) - 1
    assert [d.request_id for d in engine.step()] == ["goes on"]
    assert stops.block_ids == []


def test_a_request_that_is_aborted_in_flight_says_nothing_more() -> None:
    scheduler = make_scheduler(num_blocks=8, block_size=4)
    engine, _ = make_engine(scheduler)
    for i in range(2):
        scheduler.add(make_request(f"r{i}", [1, 2, i], arrival=i))
    engine.step()
    engine.abort("r0")
    scheduler.check_integrity()
    assert scheduler.in_flight.will_free_blocks
    assert run_to_end(engine) == {"r1": echo_generate([1, 2, 1], 8)}


def test_when_the_last_request_is_aborted_nothing_stays_in_flight() -> None:
    scheduler = make_scheduler(num_blocks=8)
    engine, runner = make_engine(scheduler)
    scheduler.add(make_request("r", [1, 2, 3]))
    engine.step()
    engine.abort("r")
    assert runner.log == ["submit 0", "wait 0"]
    assert scheduler.block_manager.pool.num_free_blocks == 8


def test_a_request_that_is_preempted_in_flight_keeps_the_token_that_was_being_sampled() -> None:
    scheduler = make_scheduler(num_blocks=6, block_size=2)
    runner = EchoRunner(6, 2)
    first, second = make_request("a", [1, 2, 3]), make_request("b", [4, 5, 6], arrival=1)
    scheduler.add(first)
    scheduler.add(second)
    steps: list[tuple[SchedulerOutput, EchoHandle]] = []
    for _ in range(20):
        scheduled = scheduler.schedule()
        steps.append((scheduled, runner.submit(scheduled)))
        scheduler.advance(scheduled)
        scheduler.check_integrity()
        if second.status is RequestStatus.WAITING and second.num_preemptions:
            break
        if len(steps) > 1:
            scheduled, handle = steps.pop(0)
            scheduler.update(scheduled, handle.result())
    assert second.token_ids[-1] == -1
    assert second.block_ids == []
    scheduled, handle = steps.pop(0)
    deltas = scheduler.update(scheduled, handle.result())
    expected = echo_generate([4, 5, 6], second.num_output_tokens)
    assert second.token_ids[3:] == expected
    assert [d.token_ids for d in deltas if d.request_id == "b"] == [expected[-1:]]
    scheduler.check_integrity()


def test_nobody_is_preempted_for_blocks_that_are_about_to_be_free() -> None:
    expected = echo_generate([1, 2, 3], 8)
    scheduler = make_scheduler(num_blocks=5, block_size=2, enable_prefix_caching=False)
    engine, _ = make_engine(scheduler)
    scheduler.add(make_request("stops", [1, 2, 3], stop_token_ids=[expected[1]], arrival=0))
    scheduler.add(make_request("goes on", [5, 6], max_tokens=6, arrival=1))
    outputs = run_to_end(engine)
    assert outputs == {"stops": expected[:2], "goes on": echo_generate([5, 6], 6)}
    assert scheduler.num_preemptions == 0


@pytest.mark.parametrize("raises_late", [False, True])
def test_a_request_that_raises_fails_alone_though_the_next_step_runs_already(raises_late: bool) -> None:
    scheduler = make_scheduler(block_size=4)
    engine, runner = make_engine(scheduler)
    poisoned = False
    runner.raises = lambda request: poisoned and request.request_id == "r2"
    runner.raises_late = raises_late
    for i in range(5):
        scheduler.add(make_request(f"r{i}", [1, 2, i], arrival=i))
    outputs: dict[str, list[int]] = {f"r{i}": [] for i in range(5)}
    ends: dict[str, Any] = {}
    for step in range(30):
        poisoned = step >= 3
        for delta in engine.step():
            outputs[delta.request_id] += delta.token_ids
            if delta.finish_reason:
                ends[delta.request_id] = delta.error or delta.finish_reason
        scheduler.check_integrity()
    assert ends == {f"r{i}": "engine_error" if i == 2 else "length" for i in range(5)}
    for i in range(5):
        expected = echo_generate([1, 2, i], 8)
        assert outputs[f"r{i}"] == (expected[: len(outputs["r2"])] if i == 2 else expected)
    assert len(outputs["r2"]) in (2, 3)


def test_who_is_left_of_a_step_that_raised_is_not_to_blame() -> None:
    """The request at fault is preempted or aborted before the step's result is asked for."""
    scheduler = make_scheduler(block_size=4)
    engine, runner = make_engine(scheduler)
    runner.raises = lambda request: request.request_id == "bad"
    runner.raises_late = True
    scheduler.add(make_request("bad", [1, 2, 3], arrival=0))
    scheduler.add(make_request("good", [4, 5, 6], arrival=1))
    engine.step()
    engine.abort("bad")
    assert run_to_end(engine) == {"good": echo_generate([4, 5, 6], 8)}


def test_a_failed_request_is_dropped_from_the_step_that_runs() -> None:
    scheduler = make_scheduler(block_size=4)
    engine, runner = make_engine(scheduler)
    runner.fail = lambda request: "numerical_error" if request.request_id == "bad" else None
    scheduler.add(make_request("bad", list(range(12)), arrival=0))
    scheduler.add(make_request("good", list(range(20, 32)), arrival=1))
    outputs = run_to_end(engine)
    assert outputs["good"] == echo_generate(list(range(20, 32)), 8)
    assert outputs["bad"] == []
    assert scheduler.block_manager.pool.num_cached_blocks == 4


def test_a_keyboard_interrupt_while_waiting_loses_nothing() -> None:
    scheduler = make_scheduler(num_blocks=8)
    engine, runner = make_engine(scheduler)
    scheduler.add(make_request("r", [1, 2, 3], max_tokens=4))
    engine.step()

    def interrupt(handle: EchoHandle) -> None:
        raise KeyboardInterrupt

    runner.run_until, run_until = interrupt, runner.run_until  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        engine.step()
    runner.run_until = run_until  # type: ignore[method-assign]
    assert run_to_end(engine) == {"r": echo_generate([1, 2, 3], 4)}


# The whole engine on a tiny random model, with kernels that promise the same bits whatever shares the batch.


@pytest.mark.skipif(cpu.unavailable() is not None, reason="the C++ kernels are not built")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"enforce_eager": True, "num_blocks": 60, "block_size": 4},
        {"max_num_batched_tokens": 7},
        {"enable_prefix_caching": False, "max_num_seqs": 5},
    ],
    ids=str,
)
def test_a_tiny_model_answers_the_same_bit_for_bit(
    tiny_model: Callable[..., Path], settings: dict[str, Any]
) -> None:
    folder = str(tiny_model("LlamaForCausalLM"))
    rng = random.Random(8)
    prompts = [[rng.randrange(256) for _ in range(rng.randrange(1, 40))] for _ in range(14)]
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.9, "seed": 3, "logprobs": 2},
        {"temperature": 1.1, "seed": 4, "top_p": 0.8, "n": 3},
        {"temperature": 0.0, "prompt_logprobs": 1},
        {"temperature": 0.7, "seed": 5, "top_k": 20},
        {"temperature": 0.0, "stop_token_ids": list(range(0, 320, 7))},
        {"temperature": 0.0, "repetition_penalty": 1.3, "min_tokens": 4},
    ]
    for kind_list in (kinds[:6], kinds):  # with the last one, the engine waits for each step
        params = [
            SamplingParams(max_tokens=20 + 2 * i, ignore_eos=True, **kind_list[i % len(kind_list)])
            for i in range(14)
        ]
        answers: list[Any] = []
        for is_async in (False, True):
            llm = LLM(folder, max_model_len=96, async_scheduling=is_async, seed=0, **settings)
            assert llm.engine.async_scheduling == is_async
            outputs = llm.generate(prompts, params, use_tqdm=False)
            answers.append([(o.outputs, o.prompt_logprobs) for o in outputs])
            llm.engine.scheduler.check_integrity()
            assert llm.get_metrics().num_free_blocks == llm.get_metrics().num_blocks
            if "num_blocks" in settings:
                assert llm.get_metrics().num_preemptions > 0
        assert answers[0] == answers[1]


def test_on_a_cpu_steps_are_scheduled_one_at_a_time_unless_asked_for(tiny_model: Callable[..., Path]) -> None:
    assert not LLM(str(tiny_model())).engine.async_scheduling
