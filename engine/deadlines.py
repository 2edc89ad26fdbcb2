"""Which requests have run out of time."""

from __future__ import annotations

import heapq

from .request import Request

MIN_HEAP_TO_REBUILD = 64


class Deadlines:
    """The deadlines of requests, earliest first, in seconds of the engine's clock."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Request]] = []
        self._max_size = MIN_HEAP_TO_REBUILD

    def add(self, request: Request) -> None:
        """Watches a request that has a deadline; any other is ignored, as it has all the time it wants."""
        if request.deadline is None:
            return
        heapq.heappush(self._heap, (request.deadline, request.arrival, request))
        if len(self._heap) > self._max_size:
            # Those that ended in time must not stay until their time is over.
            self._heap = [entry for entry in self._heap if not entry[2].is_finished]
            heapq.heapify(self._heap)
            self._max_size = 2 * len(self._heap) + MIN_HEAP_TO_REBUILD

    @property
    def next(self) -> float | None:
        """When the next request runs out of time, or None if none can."""
        while self._heap and self._heap[0][2].is_finished:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_expired(self, now: float) -> list[Request]:
        """The unfinished requests whose deadlines have come; they are watched no more."""
        expired: list[Request] = []
        while (deadline := self.next) is not None and deadline <= now:
            expired.append(heapq.heappop(self._heap)[2])
        return expired
