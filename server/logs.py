"""Logging that can neither fail nor stall a request.

Records go through a bounded queue to a thread, which hands them to the handlers that were set up
before. When the disk is full or nobody reads stderr, records are dropped and counted.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import queue
from collections.abc import Generator

MAX_QUEUED_RECORDS = 10_000


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
    """Puts the root logger's handlers behind the queue, and back at the end."""
    root = logging.getLogger()
    handlers = root.handlers[:]
    for handler in handlers:
        handler.handleError = dropped.count
    records: queue.Queue[logging.LogRecord] = queue.Queue(MAX_QUEUED_RECORDS)
    entrance = logging.handlers.QueueHandler(records)
    entrance.handleError = dropped.count
    listener = logging.handlers.QueueListener(records, *handlers, respect_handler_level=True)
    root.handlers[:] = [entrance]
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        root.handlers[:] = handlers
