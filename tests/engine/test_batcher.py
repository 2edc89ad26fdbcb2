"""Dynamic batching, simulated: virtual time, random arrivals, failures and cancellations."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.batch_queue import BatchingConfig, BatchQueue, BatchRequest, QueuePolicy
from quire.engine.batcher import Array, Batcher, Padding
from quire.errors import EngineError, InvalidRequest, Overloaded, Unavailable


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer whenever nothing else is left to do."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        self._scheduled: Any
        self._ready: Any
        if not self._ready and self._scheduled:
            self.now = max(self.now, min(handle.when() for handle in self._scheduled))
        super()._run_once()  # type: ignore[misc]


def simulate(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = SimulatedLoop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


class Model:
    """Doubles its input. It takes `seconds` a batch, and fails on batches that hold a negative number."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.batches: list[tuple[float, list[float]]] = []
        self.running = 0
        self.most_running = 0
        self.most_rows = 0

    async def __call__(self, inputs: dict[str, Array]) -> dict[str, Array]:
        x = np.asarray(inputs["x"], np.float64)
        self.batches.append((asyncio.get_running_loop().time(), x.ravel().tolist()))
        self.most_rows = max(self.most_rows, x.shape[0] if x.ndim else 1)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        if (x < 0).any():
            raise RuntimeError("negative")
        return {"y": 2 * x}

    @property
    def sizes(self) -> list[int]:
        return [len(values) for _, values in self.batches]


def column(*values: float) -> dict[str, Array]:
    return {"x": np.array(values, np.float64).reshape(-1, 1)}


async def later(seconds: float, call: Awaitable[Any]) -> Any:
    await asyncio.sleep(seconds)
    return await call


def test_requests_that_arrive_together_run_together_and_get_their_own_rows() -> None:
    async def main() -> None:
        model = Model()
        batcher = Batcher(BatchingConfig(max_batch_size=8), model)
        answers = await asyncio.gather(*(batcher.infer(column(n, n + 0.5)) for n in range(4)))
        assert model.sizes == [8]
        for n, answer in enumerate(answers):
            assert answer["y"].tolist() == [[2.0 * n], [2.0 * n + 1]]
        assert batcher.statistics.num_rows == 8
        assert batcher.statistics.batch_rows == {8: 1}

    simulate(main)


def test_a_request_waits_for_companions_as_long_as_the_queue_delay() -> None:
    async def main() -> None:
        model = Model()
        batcher = Batcher(BatchingConfig(max_batch_size=8, max_queue_delay_microseconds=5000), model)
        await asyncio.gather(
            batcher.infer(column(1)),
            later(0.004, batcher.infer(column(2))),
            later(0.006, batcher.infer(column(3))),
        )
        assert [values for _, values in model.batches] == [[1, 2], [3]]
        assert model.batches[0][0] == pytest.approx(0.005)

    simulate(main)


def test_a_full_batch_and_a_preferred_one_do_not_wait() -> None:
    async def main() -> None:
        model = Model()
        config = BatchingConfig(
            max_batch_size=8, preferred_batch_size=(2, 4), max_queue_delay_microseconds=1_000_000
        )
        batcher = Batcher(config, model)
        await asyncio.gather(*(batcher.infer(column(n)) for n in range(5)))
        assert model.sizes == [4, 1]
        assert model.batches[0][0] == 0.0
        assert model.batches[1][0] == pytest.approx(1.0)
        await asyncio.gather(*(batcher.infer(column(n, n, n, n)) for n in range(2)))
        assert model.sizes[2:] == [4, 4]

    simulate(main)
    queue = BatchQueue(BatchingConfig(max_batch_size=3, max_queue_delay_microseconds=10**6))
    for _ in range(4):
        queue.add(BatchRequest("s", 1), 0.0)
    assert len(queue.next_batch(0.0)) == 3
    assert queue.next_batch(0.5) == []
    assert queue.next_event(0.5) == 1.0
    assert len(queue.next_batch(1.0)) == 1


def test_higher_priorities_go_first_and_levels_are_checked() -> None:
    async def main() -> None:
        model = Model()
        config = BatchingConfig(max_batch_size=1, priority_levels=3, default_priority_level=2)
        batcher = Batcher(config, model)
        await asyncio.gather(
            batcher.infer(column(3), priority=3),
            batcher.infer(column(2)),
            batcher.infer(column(1), priority=1),
        )
        assert [values for _, values in model.batches] == [[1], [2], [3]]
        with pytest.raises(InvalidRequest, match="priority is 4"):
            await batcher.infer(column(1), priority=4)

    simulate(main)


def test_a_full_queue_refuses_and_only_the_new_request() -> None:
    async def main() -> None:
        batcher = Batcher(
            BatchingConfig(max_batch_size=1, default_queue_policy=QueuePolicy(max_queue_size=2)), Model()
        )
        results = await asyncio.gather(*(batcher.infer(column(n)) for n in range(4)), return_exceptions=True)
        assert [type(result) for result in results] == [dict, dict, Overloaded, Overloaded]

    simulate(main)


def test_a_request_that_times_out_in_the_queue_is_refused_when_its_time_comes() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = QueuePolicy(default_timeout_microseconds=50_000, allow_timeout_override=True)
        model = Model(seconds=1.0)
        batcher = Batcher(BatchingConfig(max_batch_size=1, default_queue_policy=policy), model)
        first = asyncio.ensure_future(batcher.infer(column(1)))
        await asyncio.sleep(0.001)
        with pytest.raises(Unavailable, match="timeout"):
            await batcher.infer(column(2), timeout_microseconds=20_000)
        assert loop.time() == pytest.approx(0.021)
        with pytest.raises(Unavailable, match="timeout"):
            await batcher.infer(column(3))
        assert loop.time() == pytest.approx(0.071)
        with pytest.raises(InvalidRequest, match="at most the model's 50000"):
            await batcher.infer(column(4), timeout_microseconds=60_000)
        await first
        assert model.batches == [(0.0, [1.0])]

    simulate(main)


def test_a_timeout_of_a_requests_own_is_refused_where_it_is_not_allowed() -> None:
    async def main() -> None:
        batcher = Batcher(BatchingConfig(), Model())
        with pytest.raises(InvalidRequest, match="timeout is 5"):
            await batcher.infer(column(1), timeout_microseconds=5)

    simulate(main)


def test_a_delayed_request_lets_others_pass_and_is_answered() -> None:
    async def main() -> None:
        policy = QueuePolicy(default_timeout_microseconds=15_000, timeout_action="delay")
        model = Model()
        batcher = Batcher(BatchingConfig(max_batch_size=1, default_queue_policy=policy), model)
        early = [asyncio.ensure_future(batcher.infer(column(n))) for n in range(3)]
        await asyncio.sleep(0.016)
        await asyncio.gather(batcher.infer(column(9)), *early)
        assert [values for _, values in model.batches] == [[0], [1], [9], [2]]

    simulate(main)


def test_a_failing_request_does_not_disturb_its_companions() -> None:
    async def main() -> None:
        model = Model()
        batcher = Batcher(BatchingConfig(max_batch_size=16), model)
        results = await asyncio.gather(
            *(batcher.infer(column(-1.0 if n in (3, 10) else n)) for n in range(16)), return_exceptions=True
        )
        for n, result in enumerate(results):
            if n in (3, 10):
                assert isinstance(result, EngineError)
                assert "negative" in result.message
            else:
                assert isinstance(result, dict)
                assert result["y"].tolist() == [[2.0 * n]]
        assert len(model.batches) <= 1 + 2 * 2 * 4
        assert (batcher.statistics.num_succeeded, batcher.statistics.num_failed) == (14, 2)

    simulate(main)


def test_a_cancelled_request_leaves_the_queue_at_once() -> None:
    async def main() -> None:
        model = Model()
        config = BatchingConfig(max_batch_size=1, default_queue_policy=QueuePolicy(max_queue_size=1))
        batcher = Batcher(config, model)
        running = asyncio.ensure_future(batcher.infer(column(1)))
        await asyncio.sleep(0.001)
        waiting = asyncio.ensure_future(batcher.infer(column(2)))
        await asyncio.sleep(0.001)
        waiting.cancel()
        await asyncio.sleep(0)
        assert batcher.num_waiting == 0
        await asyncio.gather(running, batcher.infer(column(3)))
        assert [values for _, values in model.batches] == [[1], [3]]

    simulate(main)


def test_answers_keep_the_order_of_arrival_if_asked() -> None:
    async def main() -> None:
        async def execute(inputs: dict[str, Array]) -> dict[str, Array]:
            await asyncio.sleep(float(np.asarray(inputs["x"], float)[0, 0]))
            return {"y": inputs["x"]}

        for preserve, expected in ((False, [1, 2, 3]), (True, [3, 2, 1])):
            ends: list[float] = []
            batcher = Batcher(
                BatchingConfig(max_batch_size=1, preserve_ordering=preserve), execute, concurrency=3
            )

            async def call(n: float, batcher: Batcher = batcher, ends: list[float] = ends) -> None:
                await batcher.infer(column(n))
                ends.append(n)

            await asyncio.gather(*(call(n) for n in (3, 2, 1)))
            assert ends == expected

    simulate(main)


def test_only_equal_shapes_run_together_and_padded_ones_are_cut_back() -> None:
    async def main() -> None:
        model = Model()
        wide = {"x": np.ones((1, 2))}
        batcher = Batcher(BatchingConfig(), model)
        await asyncio.gather(batcher.infer(column(1)), batcher.infer(wide), batcher.infer(column(2)))
        assert sorted(values for _, values in model.batches) == [[1, 1], [1, 2]]

        padded = Model()
        padding = Padding(values={"x": 7.0}, cut={"y": "x"})
        batcher = Batcher(BatchingConfig(), padded, padding=padding)
        one, two = await asyncio.gather(batcher.infer(column(1)), batcher.infer(wide))
        assert [values for _, values in padded.batches] == [[1, 7, 1, 1]]
        assert one["y"].tolist() == [[2.0]]
        assert two["y"].tolist() == [[2.0, 2.0]]

    simulate(main)


def test_rows_that_disagree_or_are_too_many_or_none_are_refused() -> None:
    async def main() -> None:
        batcher = Batcher(BatchingConfig(max_batch_size=2), Model())
        with pytest.raises(InvalidRequest, match="same number of rows"):
            await batcher.infer({"x": np.ones((1, 1)), "z": np.ones((2, 1))})
        with pytest.raises(InvalidRequest, match="3 rows"):
            await batcher.infer(column(1, 2, 3))
        with pytest.raises(InvalidRequest, match="0 rows"):
            await batcher.infer(column())

    simulate(main)


def test_a_model_that_answers_with_other_rows_is_an_error() -> None:
    async def main() -> None:
        async def execute(inputs: dict[str, Array]) -> dict[str, Array]:
            return {"y": np.ones((5, 1))}

        with pytest.raises(EngineError, match=r"shape \[5, 1\]"):
            await Batcher(BatchingConfig(), execute).infer(column(1))

    simulate(main)


def test_without_a_batch_dimension_requests_run_one_by_one_as_they_are() -> None:
    async def main() -> None:
        model = Model()
        batcher = Batcher(BatchingConfig(max_batch_size=0), model)
        answers = await asyncio.gather(*(batcher.infer({"x": np.array(float(n))}) for n in range(3)))
        assert [float(np.asarray(answer["y"], float)) for answer in answers] == [0.0, 2.0, 4.0]
        assert model.sizes == [1, 1, 1]

    simulate(main)


def test_closing_answers_what_was_let_in_and_refuses_what_comes() -> None:
    async def main() -> None:
        model = Model()
        config = BatchingConfig(max_batch_size=2, max_queue_delay_microseconds=60_000_000)
        batcher = Batcher(config, model)
        calls = [asyncio.ensure_future(batcher.infer(column(n))) for n in range(3)]
        await asyncio.sleep(0)
        await batcher.close()
        assert asyncio.get_running_loop().time() < 1
        assert [(await call)["y"].tolist() for call in calls] == [[[0.0]], [[2.0]], [[4.0]]]
        with pytest.raises(Unavailable, match="unloaded"):
            await batcher.infer(column(1))

    simulate(main)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BatchingConfig(max_batch_size=-1),
        lambda: BatchingConfig(max_batch_size=4, preferred_batch_size=(5,)),
        lambda: BatchingConfig(priority_levels=2),
        lambda: BatchingConfig(default_priority_level=1),
        lambda: QueuePolicy(max_queue_size=-1),
        lambda: QueuePolicy(timeout_action="drop"),  # type: ignore[arg-type]
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        make()


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_a_random_day(seed: int) -> None:
    """Every request ends once, with its own answer or a fitting error; limits hold; nothing stays behind."""
    rng = random.Random(seed)
    levels = rng.choice([0, 0, 3])
    config = BatchingConfig(
        max_batch_size=(most := rng.choice([1, 4, 16])),
        preferred_batch_size=tuple(rng.sample(range(1, most + 1), rng.randrange(0, min(3, most + 1)))),
        max_queue_delay_microseconds=rng.choice([0, 1000, 30_000]),
        priority_levels=levels,
        default_priority_level=min(levels, 2),
        preserve_ordering=rng.random() < 0.5,
        default_queue_policy=QueuePolicy(
            max_queue_size=rng.choice([0, 5]),
            timeout_action=rng.choice(["reject", "delay"]),
            default_timeout_microseconds=rng.choice([0, 20_000]),
        ),
    )
    ends: list[tuple[int, int]] = []
    started: list[int] = []

    async def main() -> None:
        model = Model(rng.choice([0.0, 0.01, 0.1]))
        concurrency = rng.choice([1, 3])
        batcher = Batcher(config, model, concurrency=concurrency)

        async def call(n: int) -> None:
            started.append(n)
            priority = rng.randrange(0, levels + 1)
            values = [float(n * 100 + row) for row in range(rng.randrange(1, most + 1))]
            bad = rng.random() < 0.1
            if bad:
                values[-1] = -1.0
            inputs = {"x": np.repeat(column(*values)["x"], rng.choice([1, 1, 1, 2]), axis=1)}
            try:
                answer = await batcher.infer(inputs, priority=priority)
            except EngineError:
                assert bad
            except (Overloaded, Unavailable):
                return
            else:
                assert not bad
                np.testing.assert_array_equal(answer["y"], 2 * np.asarray(inputs["x"], float))
            ends.append((priority or config.default_priority_level, n))

        tasks: list[asyncio.Task[None]] = []
        for n in range(40):
            tasks.append(asyncio.ensure_future(call(n)))
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice([0, 0.001, 0.02]))
            if rng.random() < 0.1:
                rng.choice(tasks).cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result
        await batcher.close()
        assert batcher.num_waiting == 0
        assert model.most_running <= concurrency
        assert model.most_rows <= most
        done = batcher.statistics
        assert done.num_succeeded + done.num_failed + done.num_cancelled == len(started)
        assert all(not order for order in batcher._order)

    simulate(main)
    if config.preserve_ordering:
        for level in {level for level, _ in ends}:
            numbers = [n for one, n in ends if one == level]
            assert numbers == sorted(numbers)
