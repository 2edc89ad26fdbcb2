"""Generates load: an open loop, whose clients do not wait for one another, or a closed one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from .http_client import ExchangeError
from .sample import BenchRequest, Sample


class Sender(Protocol):
    """Sends one request and fills in its sample, as `OpenAIClient` does."""

    async def send(self, request: BenchRequest, sample: Sample) -> None:
        """Returns when the answer is over. Raises `ExchangeError` if there is none."""
        ...


@dataclass(slots=True)
class LiveCounts:
    """What is going on at this moment, for a progress bar."""

    num_running: int = 0
    num_finished: int = 0
    num_failed: int = 0
    num_tokens: int = 0

    def add_tokens(self, num: int) -> None:
        """Counts tokens that have come."""
        self.num_tokens += num


@dataclass(slots=True)
class LoadRun:
    """What was measured.

    Attributes:
        origin: When it began.
        ended: When the last answer was over, or the measurement was stopped.
        cpu_seconds: CPU time that the generator's process took.
        interrupted: Whether it was stopped before its end.
    """

    origin: float
    ended: float
    samples: list[Sample]
    cpu_seconds: float = 0.0
    interrupted: bool = False

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.ended - self.origin


@dataclass
class LoadGenerator:
    """Sends requests to a server when it is time to.

    Attributes:
        sender: Sends a request.
        timeout: Seconds that a request may take from when it is sent.
        max_concurrency: Requests at once in the open loop; further ones wait, and their waiting counts.
        stop: When this is set, the measurement ends with what it has.
        clock: Seconds; by default those of the event loop.
    """

    sender: Sender
    timeout: float = 600.0
    max_concurrency: int | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    clock: Callable[[], float] | None = None
    live: LiveCounts = field(default_factory=LiveCounts)
    _origin: float = 0.0
    _samples: list[Sample] = field(default_factory=list[Sample])

    async def open_loop(self, requests: Iterable[BenchRequest], times: Iterable[float]) -> LoadRun:
        """Sends each request at its time, whether or not earlier ones have been answered.

        Args:
            requests: The load; it ends with the shorter of the two.
            times: Seconds from now, ascending.
        """
        return await self._measure(self._send_all(requests, times))

    async def closed_loop(
        self,
        requests: Iterable[BenchRequest],
        concurrency: int,
        *,
        ramp: float = 0.0,
        duration: float | None = None,
    ) -> LoadRun:
        """Keeps so many requests running until none are left, or the time is over.

        Args:
            requests: The load.
            concurrency: Clients; each sends its next request when it has the answer to the one before.
            ramp: Seconds over which the clients begin, one after the other.
            duration: Seconds after which no request is sent any more.
        """
        return await self._measure(self._run_clients(iter(requests), concurrency, ramp, duration))

    def _now(self) -> float:
        return asyncio.get_running_loop().time() if self.clock is None else self.clock()

    async def _measure(self, load: Coroutine[Any, Any, None]) -> LoadRun:
        """Runs a load until it ends or is stopped."""
        self._samples = []
        cpu = time.process_time()
        origin = self._origin = self._now()
        running = asyncio.create_task(load)
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
            interrupted = not running.done()
            ended = self._now()
        finally:
            running.cancel()
            stopping.cancel()
            await asyncio.gather(running, stopping, return_exceptions=True)
        if not interrupted:
            running.result()  # what is no failure of a request is a defect, and raised
        return LoadRun(origin, ended, self._samples, time.process_time() - cpu, interrupted)

    async def _send_all(self, requests: Iterable[BenchRequest], times: Iterable[float]) -> None:
        slots = None if self.max_concurrency is None else asyncio.Semaphore(self.max_concurrency)
        async with asyncio.TaskGroup() as group:
            for request, offset in zip(requests, times, strict=False):
                if (wait := self._origin + offset - self._now()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(self._send(request, self._new_sample(self._origin + offset), slots))

    async def _run_clients(
        self, requests: Iterator[BenchRequest], concurrency: int, ramp: float, duration: float | None
    ) -> None:
        async def client(number: int) -> None:
            if ramp > 0:
                await asyncio.sleep(ramp * number / concurrency)
            while duration is None or self._now() < self._origin + duration:
                request = next(requests, None)
                if request is None:
                    return
                await self._send(request, self._new_sample(self._now()), None)

        async with asyncio.TaskGroup() as group:
            for number in range(concurrency):
                group.create_task(client(number))

    def _new_sample(self, intended: float) -> Sample:
        sample = Sample(len(self._samples), intended)
        self._samples.append(sample)
        return sample

    async def _send(self, request: BenchRequest, sample: Sample, slots: asyncio.Semaphore | None) -> None:
        sample.begun = self._now()
        if slots is None:
            sample.started = sample.begun
        else:
            await slots.acquire()
            sample.started = self._now()
        self.live.num_running += 1
        try:
            async with asyncio.timeout(self.timeout):
                await self.sender.send(request, sample)
        except TimeoutError:
            sample.fail("timeout", f"no whole answer in {self.timeout:g} s")
        except ExchangeError as error:
            sample.fail(error.kind, str(error))
        finally:
            sample.ended = self._now()
            self.live.num_running -= 1
            self.live.num_finished += sample.is_ok
            self.live.num_failed += sample.error is not None
            if slots is not None:
                slots.release()
