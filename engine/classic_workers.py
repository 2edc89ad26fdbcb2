"""The worker processes of a classic model, from the server's side: started, fed and restarted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from ..errors import HUNG, EngineDied, EngineError, ModelError, QuireError, Unavailable
from ..models.classic.predictor import Array, Arrays, Description, LoadOptions
from ..models.classic.warm_up import WarmupRequest
from . import classic_protocol
from .classic_protocol import LENGTHS, JsonObject

logger = logging.getLogger(__name__)

MAX_RESTART_DELAY = 30.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Read by libraries that take no number of threads."""

STOP_SECONDS = 2.0
"""How long a worker may take to unload its model before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What the workers of a model load, and how many there are.

    Raises ValueError naming the setting and its value if one is out of range.

    Attributes:
        path: The model's file.
        runtime: A key of `RUNTIMES`; by default by the file's suffix.
        options: What the owner says about the model.
        instances: Worker processes; each computes one batch at a time.
        min_ready_instances: The model counts as ready while so many can compute.
        warmup: What each worker computes before it is ready, also when it is restarted; by default one
            row of zeros.
        load_timeout: Seconds that loading may take.
        predict_timeout: Seconds that a batch may take; a worker that takes longer hangs, and is killed.
        memory_limit: Bytes that a worker may take: a batch that needs more fails, and a model that needs
            more is refused. None is no limit. Memory of a GPU, and files that are mapped, do not count.
    """

    path: Path
    runtime: str | None = None
    options: LoadOptions = field(default_factory=LoadOptions)
    instances: int = 1
    min_ready_instances: int = 1
    warmup: Sequence[WarmupRequest] = (WarmupRequest(),)
    load_timeout: float = 600.0
    predict_timeout: float = 300.0
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.min_ready_instances <= self.instances:
            raise ValueError(
                f"min_ready_instances must be from 1 to instances={self.instances}, "
                f"not {self.min_ready_instances}"
            )
        if self.memory_limit is not None and self.memory_limit < 1:
            raise ValueError(f"memory_limit must be at least 1, not {self.memory_limit}")
        for name in ("load_timeout", "predict_timeout"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


class _Channel(asyncio.BufferedProtocol):
    """Takes frames apart, reading each into memory of its own; one answer is awaited at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[tuple[JsonObject, dict[str, Array]]] | None = None
        self._buffer = bytearray(LENGTHS.size)
        self._filled = 0
        self._head_size: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are not of the class

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled < len(self._buffer):
            return
        if self._head_size is None:
            self._head_size, size = LENGTHS.unpack(self._buffer)
            self._start(self._head_size + size)
            return
        body, head_size = self._buffer, self._head_size
        self._head_size = None
        self._start(LENGTHS.size)
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(classic_protocol.parse(body, head_size))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(EngineDied("the model's process ended with the request in it"))

    def _start(self, size: int) -> None:
        self._buffer, self._filled = bytearray(size), 0


class Worker:
    """One worker process, ready to compute. Make it with `Worker.spawn(config)`.

    Attributes:
        description: What the model says of itself.
        memory_bytes: The most memory that the process has had until it was ready.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, channel: _Channel, predict_timeout: float
    ) -> None:
        self.process = process
        self.description = Description((), ())
        self.memory_bytes = 0
        self._channel = channel
        self._predict_timeout = predict_timeout

    @classmethod
    async def spawn(cls, config: WorkerConfig) -> Worker:
        """Starts a process, and waits until it has loaded the model and warmed up.

        Raises:
            ModelError: The model cannot be loaded, or loading it ends the process or takes too long.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            # -P: a user's own random.py in the working directory is none of the worker's business.
            command = [sys.executable, "-P", "-m", "quire.engine.classic_process", str(fd), str(os.getpid())]
            threads = dict.fromkeys(THREAD_VARIABLES, str(config.options.num_threads))
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[fd], env={**os.environ, **threads}
                )
            except BaseException:
                ours.close()
                raise
        try:
            _, channel = await loop.create_connection(_Channel, sock=ours)
        except BaseException:
            ours.close()
            process.kill()
            await process.wait()
            raise
        worker = cls(process, channel, config.predict_timeout)
        try:
            await worker._load(config)
        except BaseException:
            await worker.kill()
            raise
        return worker

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked."""
        transport = self._channel.transport
        return self.process.returncode is None and transport is not None and not transport.is_closing()

    async def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Computes one batch.

        Raises:
            EngineDied: The process ended, or hung and was killed.
            EngineError: The model failed.
        """
        head, arrays = await self._ask({"kind": "predict"}, inputs, self._predict_timeout)
        if head["kind"] == "failed":
            error = classic_protocol.to_error(head)
            # A model that is loaded is valid; what it gives may not be.
            raise EngineError(error.message) if isinstance(error, ModelError) else error
        return arrays

    async def stop(self) -> None:
        """Has the model unloaded and the process end; kills it if it does not."""
        transport = self._channel.transport
        if self.is_alive and transport is not None:
            transport.writelines(classic_protocol.frame({"kind": "unload"}))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """Ends the process at once."""
        if self._channel.transport is not None:
            self._channel.transport.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def _load(self, config: WorkerConfig) -> None:
        start = {
            "kind": "start",
            "path": str(config.path),
            "runtime": config.runtime,
            "options": classic_protocol.options_to_json(config.options),
            "memory_limit": config.memory_limit,
            "warmup": classic_protocol.warmup_to_json(config.warmup),
            "log_level": logging.getLogger().getEffectiveLevel(),
        }
        try:
            head, _ = await self._ask(start, {}, config.load_timeout)
        except EngineDied as error:
            code = await self.process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise ModelError(f"{config.path} cannot be loaded: its process ended with {how}") from error
        if head["kind"] == "failed":
            raise _load_error(head, config.path)
        self.description = classic_protocol.description_from_json(head["description"])
        self.memory_bytes = head["memory_bytes"]

    async def _ask(
        self, head: Mapping[str, object], arrays: Arrays, seconds: float
    ) -> tuple[JsonObject, dict[str, Array]]:
        channel = self._channel
        if not self.is_alive or channel.transport is None:
            raise EngineDied("the model's process has ended")
        answer = channel.answer = asyncio.get_running_loop().create_future()
        channel.transport.writelines(classic_protocol.frame(head, arrays))
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            await self.kill()
            raise EngineDied(
                f"the model's process took longer than {seconds:g} s, and was killed", code=HUNG
            ) from None
        except asyncio.CancelledError:
            # Its answer would be taken for the next one's.
            await self.kill()
            raise


def _load_error(head: JsonObject, path: Path) -> QuireError:
    error = classic_protocol.to_error(head)
    if isinstance(error, ModelError):
        return error
    return ModelError(f"{path} cannot be loaded: {head['message']}")


class WorkerPool:
    """A model's workers: each that ends is replaced. Make it with `WorkerPool.start(config)`.

    Attributes:
        description: What the model says of itself.
        memory_bytes: The most memory that a worker has had until it was ready, times their number.
        num_restarts: Workers that were replaced.
    """

    def __init__(self, config: WorkerConfig, workers: list[Worker]) -> None:
        self.config = config
        self.description = workers[0].description
        self.memory_bytes = sum(worker.memory_bytes for worker in workers)
        self.num_restarts = 0
        self._workers = dict(enumerate(workers))
        self._failures: dict[int, str] = {}
        # None wakes one that waits, so that it looks whether there is still something to wait for.
        self._idle: asyncio.Queue[Worker | None] = asyncio.Queue()
        for worker in workers:
            self._idle.put_nowait(worker)
        self._supervisors = [
            asyncio.create_task(self._supervise(slot, worker)) for slot, worker in self._workers.items()
        ]

    @classmethod
    async def start(cls, config: WorkerConfig) -> WorkerPool:
        """Starts all workers.

        Raises:
            ModelError: The model cannot be loaded.
        """
        # The first alone: a file that cannot be loaded is not tried many times at once.
        workers = [await Worker.spawn(config)]
        others = [Worker.spawn(config) for _ in range(config.instances - 1)]
        for result in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(result, Worker):
                workers.append(result)
            else:
                for worker in workers:
                    await worker.kill()
                raise result
        return cls(config, workers)

    @property
    def num_ready(self) -> int:
        """Workers that can compute."""
        return sum(worker.is_alive for worker in self._workers.values())

    @property
    def is_ready(self) -> bool:
        """Whether as many workers can compute as must."""
        missing = self.config.min_ready_instances
        for worker in self._workers.values():
            missing -= worker.is_alive
            if not missing:
                return True
        return False

    @property
    def failure(self) -> str | None:
        """Why a worker could not be restarted, if one could not."""
        return next(iter(self._failures.values()), None)

    def worker_pids(self) -> list[int]:
        """The processes' ids."""
        return [worker.process.pid for worker in self._workers.values() if worker.is_alive]

    async def execute(self, inputs: Arrays) -> dict[str, Array]:
        """Computes a batch on the next worker that is free.

        Raises:
            Unavailable: There is no worker, and none could be started.
            EngineDied: The worker ended in it.
            EngineError: The model failed.
        """
        worker = await self._take()
        try:
            return await worker.predict(inputs)
        finally:
            if worker.is_alive:
                self._idle.put_nowait(worker)

    async def stop(self) -> None:
        """Ends all workers."""
        for task in self._supervisors:
            task.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))

    async def _take(self) -> Worker:
        while True:
            if len(self._failures) == self.config.instances:
                raise Unavailable(f"the model's process cannot be restarted: {self.failure}")
            worker = await self._idle.get()
            if worker is not None and worker.is_alive:
                return worker

    async def _supervise(self, slot: int, worker: Worker) -> None:
        """Replaces the worker of a slot whenever it ends."""
        while True:
            code = await worker.process.wait()
            await worker.kill()  # closes our end of its socket
            logger.error(
                "the worker %d of %s ended with exit code %s", worker.process.pid, self.config.path, code
            )
            worker = self._workers[slot] = await self._replace(slot)
            self.num_restarts += 1
            self._idle.put_nowait(worker)

    async def _replace(self, slot: int) -> Worker:
        delay = 1.0
        while True:
            try:
                worker = await Worker.spawn(self.config)
            except (QuireError, OSError) as error:
                logger.error("no worker for %s: %s; next attempt in %.0f s", self.config.path, error, delay)
                self._failures[slot] = str(error)
                for _ in range(self.config.instances):
                    self._idle.put_nowait(None)
                await asyncio.sleep(delay)
                delay = min(MAX_RESTART_DELAY, 2 * delay)
            else:
                self._failures.pop(slot, None)
                return worker
