"""Which waiting requests run together: dynamic batching by Triton's words, without clocks or tensors.

The caller says what time it is, so that whole days can be simulated. Times are in seconds.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import InvalidRequest, Overloaded

MICROSECOND = 1e-6
MIN_DEADLINES_TO_REBUILD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """How long and how many requests of one priority level may wait.

    Raises ValueError naming the setting and its value if one is out of range.

    Attributes:
        max_queue_size: Requests waiting at most; 0 is no limit.
        timeout_action: At its timeout a request is refused ("reject"), or waits until no request of its
            level is waiting that has not timed out ("delay").
        default_timeout_microseconds: Of requests that bring none; 0 is no timeout.
        allow_timeout_override: Requests may bring a timeout, shorter than the default.
    """

    max_queue_size: int = 0
    timeout_action: Literal["reject", "delay"] = "reject"
    default_timeout_microseconds: int = 0
    allow_timeout_override: bool = False

    def __post_init__(self) -> None:
        _at_least(self.max_queue_size, 0, "max_queue_size")
        _at_least(self.default_timeout_microseconds, 0, "default_timeout_microseconds")
        if self.timeout_action not in ("reject", "delay"):
            raise ValueError(f"timeout_action must be reject or delay, not {self.timeout_action!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingConfig:
    """How requests are batched.

    Raises ValueError naming the setting and its value if one is out of range.

    Attributes:
        max_batch_size: Rows of a batch at most; 0 for a model whose tensors have no batch dimension: its
            requests run one by one.
        preferred_batch_size: Numbers of rows that are sent off without waiting for more.
        max_queue_delay_microseconds: How long a request waits for companions while the model is idle.
        priority_levels: Level 1 is the highest, and runs first; 0 is one level, without priorities.
        default_priority_level: Of requests that bring none; needed where there are levels.
        default_queue_policy: Of each level.
        preserve_ordering: Answers are given in the order of arrival, within a priority level.
    """

    max_batch_size: int = 64
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = 0
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy = field(default_factory=QueuePolicy)
    preserve_ordering: bool = False

    def __post_init__(self) -> None:
        _at_least(self.max_batch_size, 0, "max_batch_size")
        _at_least(self.max_queue_delay_microseconds, 0, "max_queue_delay_microseconds")
        _at_least(self.priority_levels, 0, "priority_levels")
        for size in self.preferred_batch_size:
            if not 1 <= size <= self.max_batch_size:
                raise ValueError(
                    f"preferred_batch_size must be from 1 to max_batch_size={self.max_batch_size}, not {size}"
                )
        lowest = min(1, self.priority_levels)
        if not lowest <= self.default_priority_level <= self.priority_levels:
            raise ValueError(
                f"default_priority_level must be from {lowest} to priority_levels={self.priority_levels}, "
                f"not {self.default_priority_level}"
            )


def _at_least(value: int, least: int, name: str) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _full(limit: int) -> Overloaded:
    return Overloaded(f"{limit} requests are waiting, as many as max_queue_size allows")


@dataclass(slots=True, eq=False)
class BatchRequest:
    """A request as the queue sees it.

    Attributes:
        signature: Only requests with equal signatures run together.
        rows: Its rows; 1 where there is no batch dimension.
        payload: The caller's own.
        level: Its priority, from 0, set by the queue.
        arrival: Its number, set by the queue.
        arrived_at: When it came.
        deadline: When it times out, or None.
        is_delayed: It has timed out, and lets others pass.
        is_waiting: It is in the queue.
    """

    signature: Hashable
    rows: int
    payload: Any = None
    level: int = 0
    arrival: int = -1
    arrived_at: float = 0.0
    deadline: float | None = None
    is_delayed: bool = False
    is_waiting: bool = False

    @property
    def rank(self) -> tuple[int, bool, int]:
        """Lower ranks run first."""
        return self.level, self.is_delayed, self.arrival


class _Group:
    """The waiting requests of one signature: per level those in time, and those that let others pass."""

    def __init__(self, num_levels: int) -> None:
        self._lanes = [deque[BatchRequest]() for _ in range(2 * num_levels)]
        self.rows = 0
        self.size = 0

    def push(self, request: BatchRequest) -> None:
        self._lanes[2 * request.level + request.is_delayed].append(request)
        self.rows += request.rows
        self.size += 1

    def leave(self, request: BatchRequest) -> None:
        lane = self._lanes[2 * request.level + request.is_delayed]
        if lane[0] is request:
            lane.popleft()
        else:
            lane.remove(request)
        self.rows -= request.rows
        self.size -= 1

    def head(self) -> BatchRequest:
        return next(lane[0] for lane in self._lanes if lane)

    def oldest(self) -> float:
        return min(lane[0].arrived_at for lane in self._lanes if lane)

    def in_order(self) -> itertools.chain[BatchRequest]:
        return itertools.chain.from_iterable(self._lanes)


class BatchQueue:
    """The requests that wait, and the next batch.

    A lower level waits as long as requests of higher levels come, as strict priorities mean.

    Args:
        config: How to batch.
    """

    def __init__(self, config: BatchingConfig) -> None:
        self.config = config
        self._num_levels = max(1, config.priority_levels)
        self._groups: dict[Hashable, _Group] = {}
        self._level_sizes = [0] * self._num_levels
        self._deadlines: list[tuple[float, int, BatchRequest]] = []
        self._arrivals = itertools.count()
        self._most_rows = max(1, config.max_batch_size)
        self._delay = config.max_queue_delay_microseconds * MICROSECOND

    def __len__(self) -> int:
        return sum(self._level_sizes)

    def add(self, request: BatchRequest, now: float, *, priority: int = 0, timeout: int = 0) -> None:
        """Lets a request in.

        Args:
            request: The request; its level, arrival and deadline are set here.
            now: The time.
            priority: From 1, the highest; 0 for the default.
            timeout: Microseconds that it may wait; 0 for the default.

        Raises:
            InvalidRequest: Its rows do not fit a batch, or a value is out of range or not allowed.
            Overloaded: The queue of its level is full.
        """
        if not 1 <= request.rows <= self._most_rows:
            raise InvalidRequest(
                f"the request has {request.rows} rows; the model takes from 1 to {self._most_rows}",
                param="inputs",
            )
        request.level = self._level(priority)
        timeout = self._timeout(timeout)
        limit = self.config.default_queue_policy.max_queue_size
        if limit and self._level_sizes[request.level] >= limit:
            raise _full(limit)
        request.arrival = next(self._arrivals)
        request.arrived_at = now
        if timeout:
            request.deadline = now + timeout * MICROSECOND
            heapq.heappush(self._deadlines, (request.deadline, request.arrival, request))
        self._push(request)

    def refuse_if_full(self) -> None:
        """Raises `Overloaded` if the queues of all levels are full."""
        limit = self.config.default_queue_policy.max_queue_size
        if limit and min(self._level_sizes) >= limit:
            raise _full(limit)

    def remove(self, request: BatchRequest) -> None:
        """Takes a request out; harmless if it does not wait."""
        if not request.is_waiting:
            return
        group = self._groups[request.signature]
        group.leave(request)
        if not group.size:
            del self._groups[request.signature]
        self._level_sizes[request.level] -= 1
        request.is_waiting = False
        # Requests that come and go must not fill the heap with what they left.
        if len(self._deadlines) > 2 * len(self) + MIN_DEADLINES_TO_REBUILD:
            self._deadlines = [entry for entry in self._deadlines if entry[2].is_waiting]
            heapq.heapify(self._deadlines)

    def expire(self, now: float) -> list[BatchRequest]:
        """Takes out and returns the requests that have timed out, or lets others pass them."""
        rejected: list[BatchRequest] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if not request.is_waiting:
                continue
            self.remove(request)
            if self.config.default_queue_policy.timeout_action == "reject":
                rejected.append(request)
            else:
                request.is_delayed = True
                self._push(request)
        return rejected

    def next_batch(self, now: float) -> list[BatchRequest]:
        """Takes out the requests that should run now, first come first; empty if none should."""
        due = [group for group in self._groups.values() if self._is_due(group, now)]
        if not due:
            return []
        batch = self._compose(min(due, key=lambda group: group.head().rank))
        for request in batch:
            self.remove(request)
        return batch

    def next_event(self, now: float) -> float | None:
        """When there may be something to do next, by the passing of time alone."""
        times = [group.oldest() + self._delay for group in self._groups.values()]
        while self._deadlines and not self._deadlines[0][2].is_waiting:
            heapq.heappop(self._deadlines)
        if self._deadlines:
            times.append(self._deadlines[0][0])
        return min((time for time in times if time > now), default=None)

    def _push(self, request: BatchRequest) -> None:
        group = self._groups.get(request.signature)
        if group is None:
            group = self._groups[request.signature] = _Group(self._num_levels)
        group.push(request)
        self._level_sizes[request.level] += 1
        request.is_waiting = True

    def _is_due(self, group: _Group, now: float) -> bool:
        if group.rows >= self._most_rows or now >= group.oldest() + self._delay:
            return True
        preferred = self.config.preferred_batch_size
        return bool(preferred) and any(rows in preferred for rows in self._running_rows(group))

    def _running_rows(self, group: _Group) -> list[int]:
        """The rows of the first request, of the first two, and so on, as far as a batch reaches."""
        sums = itertools.accumulate(request.rows for request in group.in_order())
        return list(itertools.takewhile(lambda rows: rows <= self._most_rows, sums))

    def _compose(self, group: _Group) -> list[BatchRequest]:
        """The group's first requests: the largest preferred size that they make, else all that fit."""
        sums = self._running_rows(group)
        preferred = [n for n, rows in enumerate(sums, 1) if rows in self.config.preferred_batch_size]
        return list(itertools.islice(group.in_order(), preferred[-1] if preferred else len(sums)))

    def _level(self, priority: int) -> int:
        levels = self.config.priority_levels
        if not 0 <= priority <= levels:
            raise InvalidRequest(
                f"priority is {priority}; the model has priority levels up to {levels}", param="priority"
            )
        return max(0, (priority or self.config.default_priority_level) - 1)

    def _timeout(self, timeout: int) -> int:
        policy = self.config.default_queue_policy
        default = policy.default_timeout_microseconds
        if timeout == 0:
            return default
        if timeout < 0:
            raise InvalidRequest(f"timeout is {timeout}; it must not be negative", param="timeout")
        if not policy.allow_timeout_override:
            raise InvalidRequest(
                f"timeout is {timeout}; the model does not allow requests a timeout of their own",
                param="timeout",
            )
        if default and timeout > default:
            raise InvalidRequest(
                f"timeout is {timeout}; it may be at most the model's {default} microseconds", param="timeout"
            )
        return timeout
