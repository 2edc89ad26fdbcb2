"""The plain batched executor for classic models: many callers, one model, rows together.

`BatchQueue` says which requests run together. Here their rows are put together, given to the executor,
and split again. A batch that fails is run again in halves, until the request at fault is alone: its
companions get their answers. A request that was alone when its executor's process ended is run once more.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import HUNG, EngineDied, EngineError, InvalidRequest, QuireError, Unavailable
from .batch_queue import BatchingConfig, BatchQueue, BatchRequest

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]
Executor = Callable[[dict[str, Array]], Awaitable[dict[str, Array]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """What a model says about inputs of different lengths; without it only equal shapes run together.

    Attributes:
        values: What fills up the inputs that may be padded, by name. They are padded at the end of
            every dimension but the first.
        cut: Outputs as long as an input: the output's name, and the name of the input to whose own
            size the output's second dimension is cut.
    """

    values: Mapping[str, float] = field(default_factory=dict[str, float])
    cut: Mapping[str, str] = field(default_factory=dict[str, str])


TIME_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
"""Seconds, by which the times of requests are told apart."""


@dataclass(slots=True)
class BatchStatistics:
    """What a batcher has done.

    Attributes:
        num_succeeded: Requests answered.
        num_failed: Requests that ended in an error, refused ones included.
        num_cancelled: Requests that their callers gave up.
        num_rows: Rows of answered requests.
        num_executions: Batches run, those run again included.
        queue_seconds: Time that answered requests waited, summed.
        compute_seconds: Time that answered requests ran, summed.
        failed_seconds: Time that requests spent here which ended in an error, summed.
        batch_rows: How many executions had how many rows.
        batch_seconds: How long the executions with so many rows took, summed.
        last_inference: When the last batch was started, in milliseconds since the epoch; 0 for never.
        queue_buckets: How many answered requests waited how long: up to each of `TIME_BOUNDS`, and longer.
        compute_buckets: How many ran how long, likewise.
    """

    num_succeeded: int = 0
    num_failed: int = 0
    num_cancelled: int = 0
    num_rows: int = 0
    num_executions: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    failed_seconds: float = 0.0
    batch_rows: dict[int, int] = field(default_factory=dict[int, int])
    batch_seconds: dict[int, float] = field(default_factory=dict[int, float])
    last_inference: int = 0
    queue_buckets: list[int] = field(default_factory=lambda: [0] * (len(TIME_BOUNDS) + 1))
    compute_buckets: list[int] = field(default_factory=lambda: [0] * (len(TIME_BOUNDS) + 1))

    def add_times(self, queue: float, compute: float) -> None:
        """An answered request waited and ran so many seconds."""
        self.queue_seconds += queue
        self.queue_buckets[bisect_left(TIME_BOUNDS, queue)] += 1
        self.compute_seconds += compute
        self.compute_buckets[bisect_left(TIME_BOUNDS, compute)] += 1


@dataclass(slots=True, eq=False)
class _Call:
    """A request's inputs, and its answer to be."""

    inputs: Arrays
    future: asyncio.Future[dict[str, Array]]
    started_at: float = 0.0
    num_deaths: int = 0
    outcome: dict[str, Array] | QuireError | None = None


class Batcher:
    """Batches one model's requests; used from one event loop.

    Args:
        config: How to batch.
        execute: Runs a batch; may be called again with a part of a batch that failed.
        concurrency: Batches that run at once: the model's instances.
        padding: What may be padded.
        clock: Monotonic seconds; the event loop's by default.
    """

    def __init__(
        self,
        config: BatchingConfig,
        execute: Executor,
        *,
        concurrency: int = 1,
        padding: Padding | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency}")
        self.config = config
        self.statistics = BatchStatistics()
        self._execute = execute
        self._concurrency = concurrency
        self._padding = padding if padding is not None else Padding()
        self._loop = asyncio.get_running_loop()
        self._clock = clock if clock is not None else self._loop.time
        self._queue = BatchQueue(config)
        self._running: set[asyncio.Task[None]] = set()
        self._pump_is_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: str | None = None
        # Per level, with preserve_ordering: calls in the order of arrival, until they are answered.
        self._order = [deque[_Call]() for _ in range(max(1, config.priority_levels))]

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._queue)

    def refuse_if_full(self) -> None:
        """Raises `Overloaded`, and counts a failure, if the queue has no room at any priority level."""
        try:
            self._queue.refuse_if_full()
        except QuireError:
            self.statistics.num_failed += 1
            raise

    async def infer(
        self, inputs: Arrays, *, priority: int = 0, timeout_microseconds: int = 0
    ) -> dict[str, Array]:
        """Runs one request.

        Args:
            inputs: Named arrays [rows, ...]; without a batch dimension if `max_batch_size` is 0.
            priority: From 1, the highest; 0 for the default.
            timeout_microseconds: How long it may wait; 0 for the default.

        Raises:
            InvalidRequest: The inputs do not agree on their rows, or a value is out of range.
            Overloaded: The queue is full.
            Unavailable: The request waited longer than it may, or the batcher is closed.
            EngineError: The model failed on this request.
        """
        try:
            if self._refusal is not None:
                raise Unavailable(self._refusal)
            call = _Call(inputs, self._loop.create_future())
            request = BatchRequest(self._signature(inputs), self._rows(inputs), call)
            self._queue.add(request, self._clock(), priority=priority, timeout=timeout_microseconds)
        except QuireError:
            self.statistics.num_failed += 1
            raise
        if self.config.preserve_ordering:
            self._order[request.level].append(call)
        self._pump_soon()
        try:
            return await call.future
        except asyncio.CancelledError:
            self.statistics.num_cancelled += call.outcome is None
            self._queue.remove(request)
            self._release(request.level)
            raise

    async def close(self, reason: str = "the model is being unloaded") -> None:
        """Takes no new requests, and returns when those that were let in have ended."""
        self._refusal = reason
        while self._running or len(self._queue):
            self._pump()
            if self._running:
                await asyncio.wait(self._running)
            else:
                await asyncio.sleep(0)

    def _rows(self, inputs: Arrays) -> int:
        if not self.config.max_batch_size:
            return 1
        if len(inputs) == 1:
            (array,) = inputs.values()
            return array.shape[0] if array.ndim else 0
        sizes = {name: array.shape[0] if array.ndim else 0 for name, array in inputs.items()}
        if len(set(sizes.values())) != 1:
            raise InvalidRequest(f"the inputs must have the same number of rows, not {sizes}", param="inputs")
        return next(iter(sizes.values()))

    def _signature(self, inputs: Arrays) -> tuple[tuple[str, str, tuple[int, ...] | int], ...]:
        """What requests that run together have in common."""
        values = self._padding.values
        return tuple(
            (name, array.dtype.str, array.ndim if name in values else array.shape[1:])
            for name, array in sorted(inputs.items())
        )

    def _pump_soon(self) -> None:
        # Not at once: requests that arrive in the same turn of the loop go together.
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Ends what has timed out, starts the batches that are due, and sets the clock for the next."""
        self._pump_is_due = False
        now = self._clock()
        for request in self._queue.expire(now):
            waited = round((now - request.arrived_at) * 1e6)
            text = f"the request waited {waited} microseconds, longer than its timeout allows"
            self._settle(request, Unavailable(text, code="timeout"))
        while len(self._running) < self._concurrency:
            # With nobody to come, there is nothing to wait for.
            batch = self._queue.next_batch(math.inf if self._refusal is not None else now)
            if not batch:
                break
            task = self._loop.create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._ran)
        self._set_timer(now)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pump_soon()

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        event = self._queue.next_event(now) if len(self._queue) else None
        if event is not None:
            self._timer = self._loop.call_later(event - now, self._pump)

    async def _run(self, batch: Sequence[BatchRequest]) -> None:
        """Runs a batch; if it fails, its halves."""
        now = self._clock()
        for request in batch:
            request.payload.started_at = request.payload.started_at or now
        parts = [list(batch)]
        while parts:
            part = [request for request in parts.pop() if not request.payload.future.done()]
            if not part:
                continue
            try:
                answers = await self._attempt(part)
            except Exception as error:
                if len(part) > 1:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
                elif self._may_try_again(part[0], error):
                    parts.append(part)
                else:
                    self._settle(part[0], _as_error(error))
            else:
                for request, answer in zip(part, answers, strict=True):
                    self._settle(request, answer)

    def _may_try_again(self, request: BatchRequest, error: Exception) -> bool:
        """Whether the executor's end may have been somebody else's doing: once, it is believed to be."""
        call: _Call = request.payload
        call.num_deaths += isinstance(error, EngineDied)
        return isinstance(error, EngineDied) and error.code != HUNG and call.num_deaths == 1

    async def _attempt(self, part: Sequence[BatchRequest]) -> list[dict[str, Array]]:
        """Runs requests together, and returns the outputs of each."""
        calls: list[_Call] = [request.payload for request in part]
        rows = sum(request.rows for request in part)
        statistics = self.statistics
        statistics.num_executions += 1
        statistics.batch_rows[rows] = statistics.batch_rows.get(rows, 0) + 1
        statistics.last_inference = int(time.time() * 1000)
        start_time = self._clock()
        try:
            outputs = await self._execute(self._join([call.inputs for call in calls]))
        finally:
            seconds = self._clock() - start_time
            statistics.batch_seconds[rows] = statistics.batch_seconds.get(rows, 0.0) + seconds
        if not self.config.max_batch_size:
            return [outputs]
        for name, array in outputs.items():
            if not array.ndim or array.shape[0] != rows:
                raise EngineError(
                    f"the model's output {name} has shape {list(array.shape)} for a batch of {rows} rows"
                )
        answers: list[dict[str, Array]] = []
        start = 0
        for request, call in zip(part, calls, strict=True):
            answers.append(self._cut(outputs, call.inputs, slice(start, start + request.rows)))
            start += request.rows
        return answers

    def _join(self, inputs: Sequence[Arrays]) -> dict[str, Array]:
        """The rows of several requests, one after another."""
        if len(inputs) == 1:
            return dict(inputs[0])
        return {name: self._join_one(name, [arrays[name] for arrays in inputs]) for name in inputs[0]}

    def _join_one(self, name: str, arrays: list[Array]) -> Array:
        fill = self._padding.values.get(name)
        if fill is not None:
            longest = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
            arrays = [
                array
                if array.shape[1:] == longest
                else np.pad(
                    array,
                    [(0, 0), *((0, most - n) for most, n in zip(longest, array.shape[1:], strict=True))],
                    constant_values=fill,
                )
                for array in arrays
            ]
        return np.concatenate(arrays)

    def _cut(self, outputs: Arrays, inputs: Arrays, rows: slice) -> dict[str, Array]:
        """One request's outputs, of the length that they would have had alone."""
        cut = self._padding.cut
        return {
            name: array[rows, : inputs[cut[name]].shape[1]] if name in cut else array[rows]
            for name, array in outputs.items()
        }

    def _settle(self, request: BatchRequest, outcome: dict[str, Array] | QuireError) -> None:
        """Books a request's end; the caller hears of it now, or in its turn."""
        call: _Call = request.payload
        if call.future.done():
            return
        call.outcome = outcome
        statistics = self.statistics
        if isinstance(outcome, QuireError):
            statistics.num_failed += 1
            statistics.failed_seconds += self._clock() - request.arrived_at
        else:
            statistics.num_succeeded += 1
            statistics.num_rows += request.rows
            statistics.add_times(call.started_at - request.arrived_at, self._clock() - call.started_at)
        if self.config.preserve_ordering:
            self._release(request.level)
        else:
            _answer(call)

    def _release(self, level: int) -> None:
        """Answers the calls whose turn it is."""
        order = self._order[level]
        while order and (order[0].outcome is not None or order[0].future.done()):
            _answer(order.popleft())


def _answer(call: _Call) -> None:
    if call.future.done():
        return
    if isinstance(call.outcome, QuireError):
        call.future.set_exception(call.outcome)
    elif call.outcome is not None:
        call.future.set_result(call.outcome)


def _as_error(error: Exception) -> QuireError:
    if isinstance(error, QuireError):
        return error
    return EngineError(f"the model failed on this request: {type(error).__name__}: {error}")
