"""Tenants share the engine: what a flood of one may do to another, in simulated steps."""

from __future__ import annotations

import random

import pytest

from fakes import EchoRunner, FakeClock, echo_generate, make_request, make_scheduler, random_prompt
from quire.engine.engine import Engine
from quire.engine.request import Request
from quire.engine.scheduler import Scheduler


class Town:
    """An engine whose clock counts steps, and what came of its requests."""

    def __init__(self, *, is_async: bool = False, **shape: int) -> None:
        self.clock = FakeClock()
        self.scheduler: Scheduler = make_scheduler(clock=self.clock, **shape)  # pyright: ignore[reportArgumentType]
        pool = self.scheduler.block_manager.pool
        runner = EchoRunner(pool.num_blocks, self.scheduler.block_manager.block_size)
        self.engine = Engine(
            self.scheduler,
            runner,
            max_model_len=256,
            eos_token_ids=(),
            async_scheduling=is_async,
            clock=self.clock,
        )
        self.outputs: dict[str, list[int]] = {}
        self.ended: list[str] = []
        self.num_added = 0
        self.rng = random.Random(0)

    def add(self, tenant: str, *, length: int = 16, max_tokens: int = 32, **options: float) -> Request:
        self.num_added += 1
        request = make_request(
            f"{tenant}{self.num_added}",
            random_prompt(self.rng, length),
            max_tokens=max_tokens,
            max_model_len=256,
            arrival=self.num_added,
            tenant=tenant,
            **options,
        )
        request.arrival_time = self.clock.now
        self.scheduler.add(request)
        return request

    def step(self) -> None:
        self.clock.now += 1.0
        for delta in self.engine.step():
            self.outputs.setdefault(delta.request_id, []).extend(delta.token_ids)
            if delta.finish_reason is not None:
                self.ended.append(delta.request_id)
        self.scheduler.check_integrity()

    def steps_to_first_token(self, request: Request) -> float:
        """Runs until the request is done; how many steps its first token took."""
        while not request.is_finished:
            self.step()
        assert request.first_token_time is not None
        return request.first_token_time - request.arrival_time

    def run_out(self) -> None:
        while self.scheduler.has_unfinished:
            self.step()


SHAPES = {
    "seats are few": {"num_blocks": 400, "max_num_seqs": 4, "max_num_batched_tokens": 64},
    "blocks are few": {"num_blocks": 70, "max_num_seqs": 16, "max_num_batched_tokens": 64},
    "tokens are few": {"num_blocks": 400, "max_num_seqs": 8, "max_num_batched_tokens": 32},
}


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("flood_length", [16, 180])
@pytest.mark.parametrize("length", [10, 60])
def test_a_flood_at_most_doubles_the_time_to_first_token_of_another_tenant(
    shape: str, is_async: bool, flood_length: int, length: int
) -> None:
    idle = Town(is_async=is_async, **SHAPES[shape])
    alone = idle.steps_to_first_token(idle.add("light", length=length, max_tokens=8))
    town = Town(is_async=is_async, **SHAPES[shape])
    flood = [town.add("flood", length=flood_length) for _ in range(200)]
    for _ in range(20):
        town.step()
    times: list[float] = []
    for i in range(20):
        times.append(town.steps_to_first_token(town.add("light", length=length, max_tokens=8)))
        for _ in range(i % 5):  # it thinks
            town.step()
    assert not all(request.is_finished for request in flood), "the flood was over before"
    assert max(times) <= 2 * alone, times
    town.run_out()
    for request in flood:
        assert town.outputs[request.request_id] == echo_generate(
            request.token_ids[: request.num_prompt_tokens], 32
        )
        assert request.num_preemptions <= 5


def test_tenants_that_always_wait_get_tokens_by_their_weights() -> None:
    town = Town(num_blocks=400, max_num_seqs=8, max_num_batched_tokens=64)
    weights = {"a": 1.0, "b": 1.0, "c": 2.0}
    for tenant, weight in weights.items():
        for _ in range(200):
            town.add(tenant, weight=weight)
    for _ in range(400):
        town.step()
    num = dict.fromkeys(weights, 0)
    for request_id, output in town.outputs.items():
        num[request_id[0]] += len(output)
    assert num["a"] == pytest.approx(num["b"], rel=0.1)
    assert num["c"] == pytest.approx(2 * num["a"], rel=0.1)


def test_idle_time_is_no_credit() -> None:
    town = Town(num_blocks=400, max_num_seqs=1, max_num_batched_tokens=64)
    for _ in range(40):
        for tenant in ("busy", "keen"):
            town.add(tenant, max_tokens=4)
    for _ in range(60):
        town.step()
    served = len(town.ended)
    for _ in range(20):
        town.add("back", max_tokens=4)
    while len(town.ended) < served + 12:
        town.step()
    since = [request_id[:4] for request_id in town.ended[served:]]
    assert all(3 <= since.count(tenant) <= 5 for tenant in ("busy", "keen", "back")), since


def test_priority_comes_before_fairness_and_arrival_after_it() -> None:
    town = Town(num_blocks=400, max_num_seqs=1, max_num_batched_tokens=64)
    order = [
        town.add("a", max_tokens=1),  # it runs first; then it is b's turn
        town.add("b", max_tokens=1, priority=0),
        town.add("a", max_tokens=1),
        town.add("b", max_tokens=1),
    ]
    first = town.add("a", max_tokens=1, priority=-1)
    last = town.add("c", max_tokens=1, priority=1)
    town.run_out()
    expected = [first, order[1], order[0], order[3], order[2], last]
    assert town.ended == [request.request_id for request in expected]


def test_a_seat_is_only_taken_from_those_who_have_more() -> None:
    town = Town(num_blocks=400, max_num_seqs=4, max_num_batched_tokens=64)
    for _ in range(8):
        town.add("a", max_tokens=100)
    for _ in range(5):
        town.step()
    for _ in range(8):
        town.add("b", max_tokens=100)
    for _ in range(5):
        town.step()
    seats = [request.tenant for request in town.scheduler.running]
    assert sorted(seats) == ["a", "a", "b", "b"]
    assert town.scheduler.num_preemptions == 2
    town.run_out()


def test_a_better_priority_keeps_its_seats() -> None:
    town = Town(num_blocks=400, max_num_seqs=4, max_num_batched_tokens=64)
    for _ in range(4):
        town.add("a", priority=-1)
    town.step()
    town.add("b")
    town.run_out()
    assert town.scheduler.num_preemptions == 0
    assert town.ended[-1].startswith("b")


def test_a_single_tenant_is_served_in_order_of_arrival() -> None:
    town = Town(num_blocks=400, max_num_seqs=2, max_num_batched_tokens=64)
    requests = [town.add("a", max_tokens=3) for _ in range(20)]
    town.run_out()
    assert town.ended == [request.request_id for request in requests]
    assert town.scheduler.num_preemptions == 0


def test_books_are_closed_when_all_have_gone() -> None:
    town = Town(num_blocks=400, max_num_seqs=2, max_num_batched_tokens=64)
    for tenant in ("a", "b"):
        town.add(tenant)
    town.step()
    assert town.scheduler.waiting.shares.is_shared
    town.run_out()
    assert not town.scheduler.waiting.shares.is_shared
