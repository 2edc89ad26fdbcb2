"""Logging that can neither fail nor stall a request.

Records go through a bounded queue to a thread, which hands them to the handlers that were set up
before. When the disk is full or nobody reads stderr, records are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import queue
import threading
from collections.abc import Generator

MAX_QUEUED_RECORDS = 10_000
FLUSH_SECONDS = 2.0


class DropCounter:
    """How many log records were lost. Threads may race for it, and it may be off by a few."""

    def __init__(self) -> None:
        self.num_dropped = 0

    def count(self, record: logging.LogRecord) -> None:
        """Stands in for a handler's `handleError`."""
        self.num_dropped += 1


dropped = DropCounter()


@contextlib.contextmanager
def in_background() -> Generator[None]:
    """Puts the root logger's handlers behind the queue; at the end, waits a little for what is in it."""
    root = logging.getLogger()
    handlers = root.handlers[:] or [logging.StreamHandler()]
    for handler in handlers:
        handler.handleError = dropped.count
    records: queue.Queue[logging.LogRecord | None] = queue.Queue(MAX_QUEUED_RECORDS)
    entrance = logging.handlers.QueueHandler(records)
    entrance.handleError = dropped.count
    writer = threading.Thread(target=_write, args=(records, handlers), name="quire-log", daemon=True)
    root.handlers[:] = [entrance]
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    writer.start()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        with contextlib.suppress(queue.Full):
            records.put(None, timeout=FLUSH_SECONDS)
            writer.join(timeout=FLUSH_SECONDS)


def _write(records: queue.Queue[logging.LogRecord | None], handlers: list[logging.Handler]) -> None:
    while (record := records.get()) is not None:
        for handler in handlers:
            if record.levelno >= handler.level:
                handler.handle(record)
