"""Percentiles of what happened in the last minute, for those who look now; Prometheus has the rest."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

import msgspec

WINDOW_SECONDS = 60.0
MOST_SAMPLES = 1024


class Percentiles(msgspec.Struct):
    """Seconds; null while there is nothing to count.

    Attributes:
        count: The samples of the last minute, at most 1,024 of them.
    """

    count: int
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class RecentTimes:
    """The latest samples of one kind. Adding costs next to nothing; percentiles cost a sort."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque(maxlen=MOST_SAMPLES)

    def add(self, seconds: float) -> None:
        """One more sample, of this moment."""
        self._samples.append((self._clock(), seconds))

    def percentiles(self) -> Percentiles:
        """Those of the last minute, by nearest rank."""
        oldest = self._clock() - WINDOW_SECONDS
        while self._samples and self._samples[0][0] < oldest:
            self._samples.popleft()
        ordered = sorted(seconds for _, seconds in self._samples)
        count = len(ordered)
        if not count:
            return Percentiles(0)
        p50, p90, p99 = (ordered[math.ceil(count * share) - 1] for share in (0.5, 0.9, 0.99))
        return Percentiles(count, p50, p90, p99)
