"""How late the event loop wakes: whatever holds it up holds up every request of the server."""

from __future__ import annotations

import time
from collections.abc import Callable

from .metrics import Metrics

TICK_SECONDS = 0.1  # how long uvicorn sleeps between two ticks
STALL_SECONDS = 0.25


class LoopWatch:
    """Measures one event loop, which calls `tick` again and again with a sleep of a fixed length between.

    A loop is late for one of two reasons: something in this process did not let go of it, or the machine
    had no processor for the process. The first alone is a defect of the server, and is counted as a stall:
    only as much lateness as the process used processor time for.
    """

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
        processor_time: Callable[[], float] = time.process_time,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._processor_time = processor_time
        self._last: tuple[float, float] | None = None

    def tick(self) -> None:
        """The loop is here again."""
        now = (self._clock(), self._processor_time())
        if self._last is not None:
            elapsed, worked = (new - old for new, old in zip(now, self._last, strict=True))
            lag = max(0.0, elapsed - TICK_SECONDS)
            self._metrics.observe_loop(lag, is_stall=min(lag, worked) >= STALL_SECONDS)
        self._last = now
