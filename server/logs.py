"""Logging that can neither fail nor stall a request.

Records go through a bounded queue to a thread that writes them. When the disk is full or nobody
reads stderr, they are dropped and counted instead.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys

MAX_QUEUED_RECORDS = 10_000
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class DropCounter:
    """How many log records were lost. Increments race only among a few threads, and may be off by one."""

    def __init__(self) -> None:
        self.num_dropped = 0


class _Queue(logging.handlers.QueueHandler):
    def __init__(self, records: queue.Queue[logging.LogRecord], counter: DropCounter) -> None:
        super().__init__(records)
        self.counter = counter

    def handleError(self, record: logging.LogRecord) -> None:
        self.counter.num_dropped += 1


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, counter: DropCounter) -> None:
        super().__init__(sys.stderr)
        self.counter = counter

    def handleError(self, record: logging.LogRecord) -> None:
        self.counter.num_dropped += 1


dropped = DropCounter()


def configure(level: int = logging.INFO) -> logging.handlers.QueueListener:
    """Sends the logs of quire and uvicorn to stderr. The caller stops the listener at the end."""
    records: queue.Queue[logging.LogRecord] = queue.Queue(MAX_QUEUED_RECORDS)
    writer = _Stderr(dropped)
    writer.setFormatter(logging.Formatter(FORMAT))
    handler = _Queue(records, dropped)
    for name in ("quire", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(level)
    logging.getLogger("uvicorn").setLevel(max(level, logging.WARNING))
    listener = logging.handlers.QueueListener(records, writer)
    listener.start()
    return listener
