"""Whole serving days in miniature: random arrivals, aborts, failures and priorities, replayed by seed.

The model is the KV-echo model (see `fakes`), so that a request's tokens are right only if every
token stood in its own slot at every step. After each step all books are checked. Each day is lived twice: a
step at a time, and with the next step scheduled while one runs.
"""

from __future__ import annotations

import random

import pytest

from fakes import (
    VOCAB_SIZE,
    EchoHandle,
    EchoRunner,
    FakeClock,
    echo_generate,
    make_request,
    make_scheduler,
    random_prompt,
)
from quire.engine.engine import Engine
from quire.engine.request import Request
from quire.engine.scheduler import Scheduler
from quire.engine.step_data import ModelRunnerOutput, SchedulerOutput
from quire.errors import Overloaded


class WatchedRunner(EchoRunner):
    """Checks each step as it comes, and has something happen while steps run."""

    def __init__(self, day: Day) -> None:
        super().__init__(day.scheduler.block_manager.pool.num_blocks, day.block_size)
        self.day = day

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        self.check(scheduled)
        output = super().execute(scheduled)
        self.day.during(scheduled)
        return output

    def submit(self, scheduled: SchedulerOutput) -> EchoHandle:
        self.check(scheduled)
        return super().submit(scheduled)

    def check(self, scheduled: SchedulerOutput) -> None:
        scheduler = self.day.scheduler
        assert scheduled.num_tokens <= scheduler.max_num_batched_tokens
        assert len(scheduler.running) <= scheduler.max_num_seqs
        assert all(chunk.start < chunk.end for chunk in scheduled.chunks), "a chunk without tokens"
        assert all(chunk.end <= self.day.max_model_len for chunk in scheduled.chunks)
        scheduler.block_manager.check_integrity()


class Day:
    """One random schedule: its shape, its requests and what came of them."""

    def __init__(self, seed: int, *, is_async: bool) -> None:
        self.rng = random.Random(seed)
        rng = self.rng
        self.block_size = rng.choice([1, 2, 4, 8])
        self.max_model_len = rng.choice([16, 32, 64])
        smallest_pool = -(-self.max_model_len // self.block_size)
        self.clock = FakeClock()
        self.scheduler: Scheduler = make_scheduler(
            num_blocks=smallest_pool + rng.randrange(0, 4 * smallest_pool),
            block_size=self.block_size,
            max_num_seqs=rng.randrange(1, 12),
            max_num_batched_tokens=rng.choice([1, 3, 8, 64]),
            max_num_prefill_tokens=rng.choice([None, 1, 6]),
            max_num_waiting=rng.choice([3, 1000]),
            enable_prefix_caching=rng.random() < 0.8,
            clock=self.clock,
        )
        self.runner = WatchedRunner(self)
        self.runner.fail = lambda request: "numerical_error" if request.request_id in self.poisoned else None
        self.runner.raises = lambda request: request.request_id in self.raising
        self.runner.raises_late = rng.random() < 0.5
        self.engine = Engine(
            self.scheduler,
            self.runner,
            max_model_len=self.max_model_len,
            eos_token_ids=(),
            async_scheduling=is_async,
            clock=self.clock,
        )
        self.prefixes = [random_prompt(rng, rng.randrange(0, self.max_model_len // 2)) for _ in range(3)]
        self.tenants = rng.choice(
            [[("", 1.0)], [("a", 1.0), ("b", 1.0)], [("a", 0.5), ("b", 1.0), ("c", 3.0)]]
        )
        self.poisoned: set[str] = set()
        self.raising: set[str] = set()
        self.requests: dict[str, Request] = {}
        self.outputs: dict[str, list[int]] = {}
        self.ends: dict[str, str] = {}
        self.num_refused = 0

    def run(self, num_requests: int) -> None:
        """Runs until every request that was let in has ended."""
        num_steps = 0
        while len(self.requests) + self.num_refused < num_requests or self.scheduler.has_unfinished:
            if len(self.requests) + self.num_refused < num_requests and self.rng.random() < 0.5:
                self.arrive()
            if self.requests and self.rng.random() < 0.05:
                self.abort(self.rng.choice(list(self.requests)))
            self.step()
            num_steps += 1
            assert num_steps < 20_000, "no progress"

    def arrive(self) -> None:
        rng = self.rng
        prompt = (rng.choice(self.prefixes) + random_prompt(rng, rng.randrange(1, 8)))[
            : self.max_model_len - 1
        ]
        leader: Request | None = None
        salt = rng.choice([None, None, "tenant"])
        priority = rng.choice([0, 0, 0, -1, 2])
        tenant, weight = rng.choice(self.tenants)
        stops = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([0, 5, 10]))]
        min_tokens = rng.choice([0, 0, 0, 0, 3])
        for _ in range(rng.choice([1, 1, 1, 3])):
            request = make_request(
                f"r{len(self.requests) + self.num_refused}",
                prompt,
                max_tokens=rng.randrange(min_tokens or 1, 24),
                max_model_len=self.max_model_len,
                arrival=len(self.requests),
                priority=priority,
                cache_salt=salt,
                tenant=tenant,
                weight=weight,
                leader=leader,
                stop_token_ids=stops,
                min_tokens=min_tokens,
            )
            try:
                self.scheduler.add(request)
            except Overloaded:
                self.num_refused += 1
                return
            self.requests[request.request_id] = request
            self.outputs[request.request_id] = []
            if rng.random() < 0.03:
                rng.choice([self.poisoned, self.raising]).add(request.request_id)
            leader = leader or request

    def abort(self, request_id: str) -> None:
        if request_id in self.scheduler.requests:
            assert request_id not in self.ends
            self.ends[request_id] = "abort"
        self.engine.abort(request_id)

    def during(self, scheduled: SchedulerOutput) -> None:
        """While a step runs, somebody may leave; where steps are asynchronous, between two calls will do."""
        if not self.engine.async_scheduling and scheduled.chunks and self.rng.random() < 0.02:
            self.abort(self.rng.choice(scheduled.chunks).request.request_id)

    def step(self) -> None:
        self.clock.now += 1.0
        for delta in self.engine.step():
            assert delta.request_id not in self.ends, "an event after the end"
            self.outputs[delta.request_id] += delta.token_ids
            if delta.finish_reason is not None:
                self.ends[delta.request_id] = delta.finish_reason
        self.scheduler.check_integrity()

    def check(self) -> None:
        """Every request ended once, with the tokens it would have had alone, and left nothing behind."""
        pool = self.scheduler.block_manager.pool
        assert pool.num_free_blocks == pool.num_blocks
        assert set(self.ends) == set(self.requests)
        for request_id, request in self.requests.items():
            prompt = request.token_ids[: request.num_prompt_tokens]
            expected = echo_generate(prompt, request.max_num_tokens - request.num_prompt_tokens)
            first = request.params.min_tokens
            stopped = [i for i, t in enumerate(expected) if i >= first and t in request.stop_token_ids]
            expected = expected[: stopped[0] + 1] if stopped else expected
            output = self.outputs[request_id]
            assert output == expected[: len(output)], request
            assert output == request.token_ids[request.num_prompt_tokens :], request
            assert request.block_ids == []
            if self.ends[request_id] in ("length", "stop"):
                assert output == expected, request
                assert self.ends[request_id] == ("stop" if stopped else "length")
            else:
                assert (self.ends[request_id] == "error") == (
                    request_id in self.poisoned | self.raising
                ) or self.ends[request_id] == "abort"
            assert request.num_preemptions <= 5, request


def simulate(seed: int) -> None:
    for is_async in (False, True):
        day = Day(seed, is_async=is_async)
        try:
            day.run(num_requests=day.rng.randrange(1, 40))
            day.check()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, async {is_async}: {error}") from error


def test_random_schedules() -> None:
    for seed in range(300):
        simulate(seed)


@pytest.mark.nightly
@pytest.mark.parametrize("thousand", range(10))
def test_many_random_schedules(thousand: int) -> None:
    for seed in range(1000 * thousand, 1000 * thousand + 1000):
        simulate(seed)
