"""Logging that can neither fail nor stall a request.

Records go through a bounded queue to a thread, which hands them to the handlers that were set up
before. When the disk is full or nobody reads stderr, records are dropped and counted. Lines that come by
the thousand, as those of requests do, take a shorter way: they are formatted and written many at once.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import queue
import threading
import time
from collections import deque
from collections.abc import Generator
from typing import TextIO, cast

MAX_QUEUED_RECORDS = 10_000
FLUSH_SECONDS = 2.0
LINE_SECONDS = 0.05
"""How long the first line waits for others."""


class DropCounter:
    """How many log records were lost. Threads may race for it, and it may be off by a few."""

    def __init__(self) -> None:
        self.num_dropped = 0

    def count(self, record: logging.LogRecord) -> None:
        """Stands in for a handler's `handleError`."""
        self.num_dropped += 1


dropped = DropCounter()


class _Line(logging.LogRecord):
    """A record of nothing but a line."""

    def __init__(self, logger: logging.Logger, level: int, text: str, created: float) -> None:
        super().__init__(logger.name, level, __file__, 0, text, None, None)
        self.put(text, created)

    def put(self, text: str, created: float) -> None:
        """Makes it a record of another line: making a new one costs more than formatting it."""
        self.msg = text
        self.created = created
        self.msecs = int((created % 1) * 1000) + 0.0


class _Writer:
    """The thread and what is on its way to it."""

    def __init__(self, handlers: list[logging.Handler]) -> None:
        self._handlers = handlers
        self.records: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_QUEUED_RECORDS)
        self._lines: deque[tuple[logging.Logger, int, str, float]] = deque()
        self._is_collecting = False
        self.thread = threading.Thread(target=self._run, name="quire-log", daemon=True)

    def add_line(self, logger: logging.Logger, level: int, text: str) -> None:
        """A line, of now."""
        if len(self._lines) >= MAX_QUEUED_RECORDS:
            dropped.num_dropped += 1
            return
        self._lines.append((logger, level, text, time.time()))
        if not self._is_collecting:
            self._is_collecting = True
            with contextlib.suppress(queue.Full):  # then the thread is awake
                self.records.put_nowait(_WAKE)

    def _run(self) -> None:
        while (record := self.records.get()) is not None:
            if record is _WAKE:
                time.sleep(LINE_SECONDS)
            else:
                self._handle(record)
            self._write_lines()
        self._write_lines()

    def _handle(self, record: logging.LogRecord) -> None:
        for handler in self._handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    def _write_lines(self) -> None:
        self._is_collecting = False  # before the look: a line that comes from here on wakes the thread again
        num_lines = len(self._lines)
        lines = [self._lines.popleft() for _ in range(num_lines)]
        for handler in self._handlers:
            wanted = [line for line in lines if line[1] >= handler.level]
            if not wanted:
                continue
            if type(handler) is logging.StreamHandler:
                _write_together(cast("logging.StreamHandler[TextIO]", handler), wanted)
            else:
                for logger, level, text, created in wanted:
                    handler.handle(_Line(logger, level, text, created))


def _write_together(
    handler: logging.StreamHandler[TextIO], lines: list[tuple[logging.Logger, int, str, float]]
) -> None:
    """What the handler would write line by line, in one go."""
    record: _Line | None = None
    texts: list[str] = []
    for logger, level, text, created in lines:
        if record is None or record.name != logger.name or record.levelno != level:
            record = _Line(logger, level, text, created)
        else:
            record.put(text, created)
        if handler.filter(record):
            texts.append(handler.format(record) + handler.terminator)
    try:
        with handler.lock or contextlib.nullcontext():
            handler.stream.write("".join(texts))
            handler.flush()
    except Exception:  # as handlers do: the log is lost, and nothing else
        dropped.num_dropped += len(texts)


_WAKE = logging.LogRecord("", 0, "", 0, "", None, None)
_writer: _Writer | None = None


def log_line(logger: logging.Logger, level: int, text: str) -> None:
    """Logs a line as it is, without arguments; the fast way while the log is in the background."""
    if _writer is None or logger.handlers or not logger.propagate:
        logger.log(level, "%s", text)
    else:
        _writer.add_line(logger, level, text)


@contextlib.contextmanager
def in_background() -> Generator[None]:
    """Puts the root logger's handlers behind the queue; at the end, waits a little for what is in it."""
    global _writer
    root = logging.getLogger()
    handlers = root.handlers[:] or [logging.StreamHandler()]
    for handler in handlers:
        handler.handleError = dropped.count
    writer = _Writer(handlers)
    entrance = logging.handlers.QueueHandler(writer.records)
    entrance.handleError = dropped.count
    root.handlers[:] = [entrance]
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    writer.thread.start()
    before, _writer = _writer, writer
    try:
        yield
    finally:
        _writer = before
        root.handlers[:] = handlers
        with contextlib.suppress(queue.Full):
            writer.records.put(None, timeout=FLUSH_SECONDS)
            writer.thread.join(timeout=FLUSH_SECONDS)
