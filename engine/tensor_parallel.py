"""Tensor parallelism at rank 0, which alone schedules and samples: its workers, a model over all ranks."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RankFailed
from ..kernels.types import AttentionMetadata
from ..models.causal_lm import CausalLM
from ..models.parallel import Ranks
from . import rank_protocol
from .config import EngineConfig
from .rank_protocol import JsonObject, StartWorker

logger = logging.getLogger(__name__)

NOT_RECORDED = "ranks exchange sums between the ops"
"""Why a step of several ranks is not one recorded call."""

PATIENCE = 10.0
"""Seconds that a worker which was told to end has for it."""

EXPLANATION_SECONDS = 2.0
"""A broken connection is noticed a little before the end of the process that broke it."""


def thread_share(num_threads: int, rank: int, size: int) -> int:
    """How many of a machine's threads a rank takes, at least one."""
    return max(1, num_threads // size + (rank < num_threads % size))


@dataclass(slots=True)
class _Fate:
    """What has become of the workers; their watchers know no more of them, so that they can be forgotten."""

    closed: bool = False
    reason: str | None = None
    failed: threading.Event = field(default_factory=threading.Event)
    listener: Callable[[str], None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, reason: str) -> None:
        """Notes the first failure, and tells whoever listens."""
        with self.lock:
            if self.closed or self.reason is not None:
                return
            self.reason = reason
            listener = self.listener
        self.failed.set()
        if listener is not None:
            listener(reason)

    def listen(self, listener: Callable[[str], None]) -> None:
        """Has `listener` called with the reason once, at once if there is one already."""
        with self.lock:
            self.listener = listener
            reason = self.reason
        if reason is not None:
            listener(reason)


class Workers:
    """The processes of all ranks but this one, which is rank 0. They end with this process, however it ends.

    Args:
        config: The engine's settings; `model` is a folder.

    Attributes:
        ranks: This rank among them.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.ranks = Ranks(0, config.tensor_parallel_size)
        self._folder = Path(tempfile.mkdtemp(prefix="quire-ranks-"))
        self._rendezvous = self._folder / "rendezvous"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._fate = _Fate()
        # Also when this object is forgotten, and when the interpreter ends.
        self._end = weakref.finalize(self, _end, self._processes, self._sockets, self._fate, self._folder)
        try:
            for rank in range(1, self.ranks.size):
                self._spawn(config, rank)
        except BaseException:
            self.close()
            raise

    def _spawn(self, config: EngineConfig, rank: int) -> None:
        ours, theirs = socket.socketpair()
        self._sockets.append(ours)
        with theirs:
            # -P: a user's own random.py in the working directory is none of the worker's business.
            fd, module = theirs.fileno(), "quire.engine.worker_process"
            command = [sys.executable, "-P", "-m", module, str(fd), str(os.getpid())]
            process = subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL)
        self._processes.append(process)
        threading.Thread(
            target=_watch, args=(process, rank, self._fate), name=f"quire-rank-{rank}", daemon=True
        ).start()
        level = logging.getLogger().getEffectiveLevel()
        self._send(rank, StartWorker(config, rank, str(self._rendezvous), level).to_json())

    @property
    def pids(self) -> list[int]:
        """The workers' process ids, in the order of their ranks."""
        return [process.pid for process in self._processes]

    def connect(self, device: torch.device) -> None:
        """Waits until all workers have loaded their parts, and connects the ranks.

        Raises:
            QuireError: A worker cannot start; as it was raised there.
            RankFailed: A worker ended.
        """
        for rank in range(1, self.ranks.size):
            self._receive(rank, "loaded")
        for rank in range(1, self.ranks.size):
            self._send(rank, {"connect": True})
        self.ranks.connect(self._rendezvous, device)
        shutil.rmtree(self._folder, ignore_errors=True)

    def smallest_budget(self, budget: int) -> int:
        """The fewest bytes that any rank has for its cache, of which this one has `budget`."""
        return min(budget, *(self._receive(rank, "budget") for rank in range(1, self.ranks.size)))

    def start(self, num_blocks: int, max_model_len: int) -> None:
        """Has the workers allocate their caches and wait for steps."""
        for rank in range(1, self.ranks.size):
            self._send(rank, {"num_blocks": num_blocks, "max_model_len": max_model_len})
        for rank in range(1, self.ranks.size):
            self._receive(rank, "ready")

    def listen(self, listener: Callable[[str], None]) -> None:
        """Has `listener` called with the reason, from any thread, when a rank fails."""
        self._fate.listen(listener)

    @contextlib.contextmanager
    def in_step(self) -> Generator[None]:
        """Around what all ranks do together: whatever ends it early leaves them out of step for good.

        Raises:
            RankFailed: A rank failed, now or before.
        """
        if self._fate.reason is not None or self._fate.closed:
            raise RankFailed(self._fate.reason or "the workers have been closed")
        try:
            yield
        except BaseException as error:
            if isinstance(error, RankFailed):
                self._fate.failed.wait(EXPLANATION_SECONDS)
            self._fate.fail(f"rank 0 failed in a step: {type(error).__name__}: {error}")
            reason = self._fate.reason or "the workers have been closed"
            self.close()
            if isinstance(error, Exception):
                raise RankFailed(reason) from error
            raise

    def close(self) -> None:
        """Ends the workers."""
        self._end()

    def _send(self, rank: int, message: JsonObject) -> None:
        # To a worker that is gone nothing can be sent; the next answer that is missing says so.
        with contextlib.suppress(ConnectionError):
            self._sockets[rank - 1].sendall(rank_protocol.frame(message))

    def _receive(self, rank: int, name: str) -> Any:
        message = rank_protocol.receive(self._sockets[rank - 1])
        if message is None:
            self._fate.failed.wait(EXPLANATION_SECONDS)
            raise RankFailed(self._fate.reason or f"rank {rank} closed its connection while starting")
        if "error" in message:
            raise rank_protocol.to_error(rank, message)
        return message[name]


def _watch(process: subprocess.Popen[bytes], rank: int, fate: _Fate) -> None:
    code = process.wait()
    fate.fail(f"rank {rank} (process {process.pid}) ended with exit code {code}")


def _end(
    processes: list[subprocess.Popen[bytes]], sockets: list[socket.socket], fate: _Fate, folder: Path
) -> None:
    fate.closed = True
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # at which a worker ends, whoever else holds the socket
        sock.close()
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    shutil.rmtree(folder, ignore_errors=True)


class ParallelModel:
    """A model over all ranks, for the runner of rank 0: see `model_runner.Model`.

    Args:
        model: This rank's part.
        workers: Those that have the others.
    """

    def __init__(self, model: CausalLM, workers: Workers) -> None:
        self.model = model
        self.workers = workers

    def forward(self, input_ids: Tensor, kv_caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
        """As `CausalLM.forward`. Raises `RankFailed` if a rank, this one included, fails in it."""
        with _undisturbed(), self.workers.in_step():
            rank_protocol.send_forward(self.workers.ranks, input_ids, meta)
            return self.model.forward(input_ids, kv_caches, meta)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """As `CausalLM.compute_logits`. Raises as `forward` does."""
        hidden = hidden.contiguous()
        with _undisturbed(), self.workers.in_step():
            rank_protocol.send_hidden(self.workers.ranks, hidden)
            return self.model.compute_logits(hidden)


@contextlib.contextmanager
def _undisturbed() -> Generator[None]:
    """Has a Ctrl-C wait for the end of what all ranks do together; a second one is obeyed at once."""
    previous: Any = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield  # it does not interrupt this thread, or has no meaning here
        return
    waiting: list[tuple[Any, ...]] = []

    def note(*args: Any) -> None:
        if waiting:
            previous(*args)
        waiting.append(args)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if waiting:
        previous(*waiting[0])


def for_workers(config: EngineConfig, folder: Path) -> EngineConfig:
    """The workers' settings: the model is found once, so that all ranks have the same revision."""
    return replace(config, model=str(folder), revision=None)
