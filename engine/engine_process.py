"""The engine's own process: `python -m quire.engine.engine_process FD`.

It talks over one end of a socket pair, which it inherits. When the other end closes it is gone,
even in the middle of a step, so it never outlives its parent.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from typing import NoReturn

from ..errors import Overloaded, QuireError, RankFailed
from . import protocol
from .block_map import BlockReporter
from .engine import Engine, split_choices
from .protocol import (
    Abort,
    Add,
    Alive,
    Blocks,
    Failed,
    Ready,
    Refused,
    ResetPrefixCache,
    Start,
    Step,
    ToEngine,
    Unwatch,
    Watch,
)

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1.0
"""How often the engine shows that it lives."""

PR_SET_PDEATHSIG = 1


class Connection:
    """The engine's end of the socket.

    A thread reads, so that the end of the parent is noticed at once, and another gives signs of
    life, so that a step which takes long does not look like an engine that hangs. (A process that
    is stopped stops both.)
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[ToEngine | None] = queue.SimpleQueue()
        for target in (self._read, self._beat):
            threading.Thread(target=target, name=f"quire-engine-{target.__name__}", daemon=True).start()

    def send(self, message: protocol.FromEngine) -> None:
        """Sends one frame; if the parent is gone, so is this process."""
        frame = protocol.frame(message)
        try:
            with self._sending:
                self._socket.sendall(frame)
        except OSError:
            os._exit(0)

    def receive(self) -> ToEngine | None:
        """The next message, or None if there is none yet."""
        try:
            return self._inbox.get_nowait()
        except queue.Empty:
            return None

    def wait(self, seconds: float | None = None) -> ToEngine | None:
        """The next message, however long it takes; None if `wake` came first, or the time is over."""
        try:
            return self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None

    def wake(self) -> None:
        """Ends a `wait`, from any thread."""
        self._inbox.put(None)

    def _beat(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            self.send(Alive())

    def _read(self) -> None:
        while True:
            header = self._read_exactly(protocol.HEADER.size)
            body = self._read_exactly(protocol.HEADER.unpack(header)[0])
            try:
                message = protocol.decode_to_engine(body)
            except Exception:
                # An engine that hears no more is of no use; the parent starts another.
                logger.exception("a message from the parent cannot be decoded")
                os._exit(1)
            self._inbox.put(message)

    def _read_exactly(self, num_bytes: int) -> bytes:
        parts: list[bytes] = []
        while num_bytes:
            try:
                part = self._socket.recv(min(num_bytes, 1 << 20))
            except OSError:
                part = b""
            if not part:
                os._exit(0)  # the parent is gone: nobody is left to answer
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)


def serve(engine: Engine, connection: Connection) -> NoReturn:
    """Steps for ever; takes messages in between."""
    connection.send(Step([], engine.stats(), []))
    if engine.grammars is not None:
        engine.grammars.on_ready = connection.wake
    pool = engine.scheduler.block_manager.pool
    reporter = BlockReporter(
        pool, lambda runs, is_whole: connection.send(Blocks(runs, is_whole)), time.monotonic
    )
    while True:
        message = connection.receive() if engine.has_work else connection.wait(engine.seconds_to_deadline)
        while message is not None:
            handle(engine, connection, reporter, message)
            message = connection.receive()
        deltas = engine.step() if engine.has_work else []
        connection.send(Step(deltas, engine.stats(), engine.take_finished()))
        reporter.after_step(is_idle=not engine.has_work)


def handle(engine: Engine, connection: Connection, reporter: BlockReporter, message: ToEngine) -> None:
    """Acts on one message."""
    match message:
        case Add(choice_ids, prompt_token_ids, params):
            try:
                for request in split_choices(
                    choice_ids,
                    prompt_token_ids,
                    params,
                    priority=message.priority,
                    cache_salt=message.cache_salt,
                    arrival_time=message.arrival_time,
                    tenant=message.tenant,
                    weight=message.weight,
                    timeout=message.timeout,
                ):
                    engine.add_request(request)
            except Overloaded as error:
                for choice_id in choice_ids:
                    engine.abort(choice_id)
                connection.send(Refused(choice_ids, error.message))
        case Abort(request_ids, reason):
            for request_id in request_ids:
                engine.abort(request_id, reason)
        case ResetPrefixCache():
            engine.reset_prefix_cache()
        case Watch():
            reporter.watch()
        case Unwatch():
            reporter.unwatch()
        case Start():
            raise RuntimeError("the engine has started already")


def main() -> None:
    """Builds the engine that the parent asks for, and serves it."""
    _die_with_parent()
    # The parent decides when to stop; a Ctrl-C, or a service manager, may signal this process too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(
        level=os.environ.get("QUIRE_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s engine: %(message)s",
    )
    connection = Connection(socket.socket(fileno=int(sys.argv[1])))
    start = connection.wait()
    if not isinstance(start, Start):
        raise TypeError(f"expected Start, got {start!r}")
    try:
        from .build import build_engine

        engine, choice, _ = build_engine(start.config, on_rank_failure=_end)
    except Exception as error:
        if not isinstance(error, QuireError):  # those say all in one line, and the parent shows it
            logger.exception("the engine cannot start")
        param = getattr(error, "param", None)
        connection.send(Failed(type(error).__name__, str(error), param))
        sys.exit(1)
    connection.send(Ready(choice.max_model_len))
    try:
        serve(engine, connection)
    except RankFailed as error:
        _end(error.message)


def _end(reason: str) -> NoReturn:
    """Ends this process, as it cannot go on; the parent starts another."""
    logger.error("the engine ends: %s", reason)
    os._exit(1)  # threads that carry tensors may wait for a rank that is gone


def _die_with_parent() -> None:
    """Asks Linux to kill this process when its parent ends; elsewhere the socket's end must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
