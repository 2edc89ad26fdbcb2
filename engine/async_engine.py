"""The engine from an API process: asyncio on this side, the engine in a process of its own.

This side tokenises, detokenises and looks for stop strings; the engine only sees token ids. If the
engine process ends, every open request gets an error, and a new one is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from ..errors import EngineDied, EngineError, Overloaded, QuireError, Unavailable, request_failure
from ..models.chat_template import ChatTemplate
from ..models.config import ModelConfig
from ..models.pooling import PoolingConfig
from ..models.tokenizer import Tokenizer
from . import protocol
from .block_map import BlockMap
from .config import EngineConfig
from .find import FoundModel, find_model
from .grammar_checker import GrammarChecker
from .input_check import check_request, resolve_bad_words, truncate_prompt
from .outbox import Outbox
from .output_processor import OutputProcessor
from .outputs import FinishReason, RequestOutput
from .protocol import (
    Abort,
    Add,
    Alive,
    Blocks,
    Failed,
    FromEngine,
    Ready,
    Refused,
    ResetPrefixCache,
    Start,
    Step,
    ToEngine,
    Unwatch,
    Watch,
)
from .request import FinishedRequest
from .sampling_params import SamplingParams
from .stats import EngineStats

logger = logging.getLogger(__name__)

HEARTBEAT_TIMEOUT = 15.0
"""Seconds without a sign of life after which the engine counts as hung."""

MAX_RESTART_DELAY = 30.0

StatsListener = Callable[[EngineStats, Sequence[FinishedRequest]], None]
"""Called after every step with the engine's figures and the requests that ended in it."""


class EngineProcess:
    """One engine process and the socket to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def spawn(cls, config: EngineConfig) -> EngineProcess:
        """Starts the process and hands it its configuration."""
        ours, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            # -P: a user's own random.py in the working directory is none of the engine's business.
            command = [sys.executable, "-P", "-m", "quire.engine.engine_process", str(fd)]
            process = await asyncio.create_subprocess_exec(*command, pass_fds=[fd])
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        engine = cls(process, reader, writer)
        engine.send(Start(config))
        return engine

    def send(self, message: ToEngine) -> None:
        """Queues a message; to a process that is gone it is lost, as is all else there."""
        if not self._writer.is_closing():
            self._writer.write(protocol.frame(message))

    async def receive(self) -> FromEngine | None:
        """The next message, or None when the process is gone."""
        try:
            header = await self._reader.readexactly(protocol.HEADER.size)
            body = await self._reader.readexactly(protocol.HEADER.unpack(header)[0])
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return protocol.decode_from_engine(body)

    async def stop(self) -> int:
        """Closes the socket, at which the process ends; kills it if it does not. Returns its exit code."""
        self._writer.close()
        try:
            return await asyncio.wait_for(self.process.wait(), timeout=2.0)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            return await self.process.wait()


class AsyncEngine:
    """Serves many callers from one engine process. Make it with `AsyncEngine.start(config)`.

    Attributes:
        config: All settings.
        model_config: The model's shape.
        tokenizer: The model's tokenizer.
        chat_template: The model's chat template, which refuses if there is none.
        max_model_len: Tokens of a request, prompt and output.
        stats: The engine's figures after its last step.
        block_map: What each KV-cache block is doing, while somebody watches it.
    """

    def __init__(self, config: EngineConfig, found: FoundModel) -> None:
        self.config = config
        self._engine_config = _for_engine(config, found)
        self.model_config: ModelConfig = found.config
        self.max_model_len = found.max_model_len
        self.tokenizer = Tokenizer.from_folder(found.folder)
        self.chat_template = ChatTemplate.from_folder(found.folder)
        self.stats = EngineStats()
        self._folder = found.folder
        self.block_map = BlockMap(self._watch_blocks)
        self._processor = OutputProcessor(self.tokenizer)
        self._grammars = GrammarChecker(found.folder, self.tokenizer, found.config)
        self._outboxes: dict[str, Outbox] = {}
        self._listeners: list[StatsListener] = []
        self._ids = itertools.count()
        self._engine: EngineProcess | None = None
        self._ready = False
        self._closed = False
        self._last_sign = time.monotonic()
        self._supervisor: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, config: EngineConfig, meanwhile: Callable[[], object] | None = None) -> AsyncEngine:
        """Starts the engine process and waits until the model is loaded.

        Args:
            config: All settings.
            meanwhile: Called in a thread while the engine's process, once it is there, starts.

        Raises:
            ModelError: If the model cannot be loaded or does not fit.
            ValueError: If a setting does not fit this machine.
        """
        found = await asyncio.to_thread(find_model, config)
        process = await EngineProcess.spawn(_for_engine(config, found))
        try:
            # While that process imports torch and loads the model, this one reads the tokenizer.
            engine = await asyncio.to_thread(cls, config, found)
            if meanwhile is not None:
                await asyncio.to_thread(meanwhile)
            engine._engine = process
            await engine._wait_ready(process)
        except BaseException:
            await process.stop()
            raise
        engine._supervisor = asyncio.create_task(engine._supervise(process))
        return engine

    @cached_property
    def pooling(self) -> PoolingConfig:
        """How the model makes embeddings. Raises `ModelError` if it asks for what quire does not do."""
        return PoolingConfig.from_folder(self._folder)

    @property
    def is_ready(self) -> bool:
        """Whether the engine takes requests now."""
        return self._ready

    @property
    def memory_bytes(self) -> int:
        """The main memory that the engine's process takes; 0 if there is none. GPUs' memory is not in it."""
        if self._engine is None:
            return 0
        try:
            pages = Path(f"/proc/{self._engine.process.pid}/statm").read_text().split()[1]
        except OSError:
            return 0  # it has just ended
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def is_closed(self) -> bool:
        """Whether it has been shut down, for good."""
        return self._closed

    @property
    def is_alive(self) -> bool:
        """False if the engine hangs: it has given no sign of life, and is not being (re)started."""
        if self._supervisor is not None and self._supervisor.done():
            return False
        return not self._ready or time.monotonic() - self._last_sign < HEARTBEAT_TIMEOUT

    def add_stats_listener(self, listener: StatsListener) -> None:
        """Has `listener` called after every step."""
        self._listeners.append(listener)

    async def generate(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        request_id: str,
        priority: int = 0,
        cache_salt: str | None = None,
        tenant: str = "",
        weight: float = 1.0,
        time_limit: float | None = None,
    ) -> AsyncIterator[RequestOutput]:
        """Generates for one prompt, yielding deltas; leaving the iterator early aborts the request.

        Args:
            prompt_token_ids: The prompt.
            params: What the sampler shall do.
            request_id: The caller's id, for the outputs; need not be unique.
            priority: Lower numbers run first.
            cache_salt: Only requests with the same salt share cached prefixes.
            tenant: Whose request it is; tenants share the engine as `fair_queue` says.
            weight: The tenant's share of the engine, relative to those of others.

            time_limit: Seconds after which the engine ends the request, whether it waits or runs.

        Raises:
            InvalidRequest: The request cannot be honoured.
            RequestTimeout: Its time was over before it was done.
            Overloaded: The queue is full.
            Unavailable: The engine is being restarted.
            EngineDied: The engine process ended while the request was in it.
            EngineError: The engine failed on this request.
            TooSlow: The caller left too much of the answer where it is.
        """
        params = resolve_bad_words(params, self.tokenizer)
        prompt_token_ids = truncate_prompt(prompt_token_ids, params, self.tokenizer, self.max_model_len)
        check_request(
            prompt_token_ids,
            params,
            vocab_size=self.model_config.vocab_size,
            max_model_len=self.max_model_len,
            eos_token_ids=self.model_config.eos_token_ids,
            generates=self.model_config.generates,
        )
        if params.structured_outputs is not None:
            await self._grammars.check(params.structured_outputs)
        if not self._ready or self._engine is None:
            raise Unavailable(
                "the engine has been shut down" if self._closed else "the engine is starting; try again soon"
            )
        # Ids inside are our own: whatever a client sends, they are unique.
        internal_id = str(next(self._ids))
        choice_ids = self._processor.add(internal_id, prompt_token_ids, params)
        outbox = self._outboxes[internal_id] = Outbox(len(choice_ids))
        try:
            arrival_time = time.monotonic()
            self._engine.send(
                Add(
                    choice_ids,
                    prompt_token_ids,
                    params,
                    priority,
                    cache_salt,
                    arrival_time,
                    tenant,
                    weight,
                    time_limit,
                )
            )
            finished = False
            while not finished:
                output = await outbox.get()
                finished = output.finished
                output.request_id = request_id
                yield output
        finally:
            del self._outboxes[internal_id]
            self._abort_choices(self._processor.remove(internal_id))

    async def reset_prefix_cache(self) -> None:
        """Makes the engine forget all cached prefixes that are not in use."""
        if self._engine is not None:
            self._engine.send(ResetPrefixCache())

    async def shutdown(self) -> None:
        """Ends the engine process; open requests get an error."""
        self._ready, self._closed = False, True
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
        if self._engine is not None:
            await self._engine.stop()
        await self._grammars.close()
        self._fail_all("the server is shutting down")

    def _abort_choices(self, choice_ids: list[str], reason: FinishReason = "abort") -> None:
        if choice_ids and self._engine is not None:
            self._engine.send(Abort(choice_ids, reason))

    def _watch_blocks(self, wanted: bool) -> None:
        # An engine that is starting is told when it is ready.
        if self._ready and self._engine is not None:
            self._engine.send(Watch() if wanted else Unwatch())

    async def _wait_ready(self, process: EngineProcess) -> None:
        message = await process.receive()
        while isinstance(message, Alive):
            message = await process.receive()
        match message:
            case Ready(max_model_len):
                logger.info("engine process %d is ready", process.process.pid)
                self.max_model_len = max_model_len
                self._last_sign = time.monotonic()
                self._ready = True
                if self.block_map.num_watchers:
                    process.send(Watch())
            case Failed():
                raise message.to_error()
            case _:
                code = await process.process.wait()
                raise EngineError(f"the engine process ended with exit code {code} while starting")

    async def _supervise(self, process: EngineProcess) -> None:
        """Takes in what the engine sends; when the engine ends, starts another."""
        delay = 0.0
        while True:
            if self._ready:
                try:
                    await self._receive_all(process)
                except Exception:
                    # Whatever cannot be taken in, an engine whose answers are lost is of no use.
                    logger.exception("the engine's messages cannot be taken in")
                self._ready = False
                self.block_map.clear()
                self._fail_all("the engine process ended; it is being restarted")
                delay = 0.0
            code = await process.stop()
            logger.error("engine process %d ended with exit code %s; restarting", process.process.pid, code)
            await asyncio.sleep(delay)
            delay = min(MAX_RESTART_DELAY, max(1.0, 2 * delay))
            try:
                self._engine = process = await EngineProcess.spawn(self._engine_config)
                await self._wait_ready(process)
            except (QuireError, ValueError, OSError) as error:
                logger.error("the engine did not start: %s; next attempt in %.0f s", error, delay)

    async def _receive_all(self, process: EngineProcess) -> None:
        """Handles messages until the process is gone."""
        while (message := await process.receive()) is not None:
            self._last_sign = time.monotonic()
            match message:
                case Step():
                    self._take_step(message)
                case Alive():
                    pass
                case Blocks(runs, is_whole):
                    self.block_map.update(runs, is_whole=is_whole)
                case Refused(request_ids, text):
                    self._refuse(request_ids, text)
                case _:
                    logger.error("unexpected message from the engine: %r", message)

    def _take_step(self, step: Step) -> None:
        self.stats = step.stats
        processed = self._processor.process(step.deltas)
        self._abort_choices(processed.stopped, "stop")
        self._abort_choices(processed.orphaned)
        for output in processed.outputs:
            outbox = self._outboxes.get(output.request_id)
            if outbox is not None and not outbox.put(output):
                self._abort_choices(self._processor.remove(output.request_id))
        for request_id, code in processed.failures.items():
            self._fail(request_id, request_failure(code))
        for listener in self._listeners:
            listener(step.stats, step.finished)

    def _refuse(self, choice_ids: Sequence[str], message: str) -> None:
        request_id = choice_ids[0].rpartition(".")[0]
        self._processor.remove(request_id)
        self._fail(request_id, Overloaded(message))

    def _fail(self, request_id: str, error: QuireError) -> None:
        outbox = self._outboxes.get(request_id)
        if outbox is not None:
            outbox.fail(error)

    def _fail_all(self, message: str) -> None:
        for request_id in self._processor.request_ids():
            self._processor.remove(request_id)
            self._fail(request_id, EngineDied(message))
        self.stats = replace(self.stats, num_running=0, num_waiting=0, num_free_blocks=self.stats.num_blocks)


def _for_engine(config: EngineConfig, found: FoundModel) -> EngineConfig:
    """The engine process' configuration.

    The model is found once: a restart must neither ask the hub again nor get another revision.
    """
    return replace(config, model=str(found.folder), revision=None)
