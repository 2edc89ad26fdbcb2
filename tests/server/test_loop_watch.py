"""When the event loop is late, and whose fault it is."""

from __future__ import annotations

import time

from quire.server.loop_watch import LoopWatch

from .conftest import Served, serve_on_port, until


class Lags:
    """Takes the place of the metrics."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, bool]] = []

    def observe_loop(self, lag: float, *, is_stall: bool) -> None:
        self.seen.append((round(lag, 3), is_stall))


def test_only_the_processs_own_work_is_a_stall() -> None:
    lags = Lags()
    times = [(0.0, 0.0), (0.1, 0.0), (0.5, 0.3), (1.5, 0.31), (1.55, 0.36), (1.95, 0.7)]
    clock, worked = (iter([time[place] for time in times]) for place in (0, 1))
    watch = LoopWatch(lags, lambda: next(clock), lambda: next(worked))  # type: ignore[arg-type]
    for _ in times:
        watch.tick()
    assert lags.seen == [(0.0, False), (0.3, True), (0.9, False), (0.0, False), (0.3, True)]


def stalls(served: Served) -> float:
    text = served.context.metrics.render().decode()
    (line,) = (line for line in text.splitlines() if line.startswith("quire:event_loop_stalls_total"))
    return float(line.split()[1])


async def test_a_server_counts_its_stalls() -> None:
    async with serve_on_port() as (served, _):
        await until(lambda: b"event_loop_lag_seconds_count 0" not in served.context.metrics.render(), "ticks")

        def work() -> None:
            started = time.process_time()
            while time.process_time() - started < 0.5:
                pass

        work()
        await until(lambda: stalls(served) > 0, "it is counted")
