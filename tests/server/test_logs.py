"""Logging behind a queue."""

from __future__ import annotations

import logging
import threading

import pytest

from quire.server import logs


class Full(logging.Handler):
    """A handler whose disk is full."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            self.handleError(record)


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    return root


def test_records_arrive_in_order(root: logging.Logger) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    root.handlers[:] = [handler]
    with logs.in_background():
        for number in range(100):
            logging.getLogger("quire.test").warning("line %d", number)
    assert lines == [f"line {number}" for number in range(100)]
    assert root.handlers == [handler]


def test_what_cannot_be_written_is_counted(root: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    root.handlers[:] = [Full()]
    before = logs.dropped.num_dropped
    with logs.in_background():
        for _ in range(5):
            logging.getLogger("quire.test").warning("lost")
    assert logs.dropped.num_dropped == before + 5
    assert capfd.readouterr().err == ""


def test_a_writer_that_hangs_stalls_nobody(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_QUEUED_RECORDS", 10)
    monkeypatch.setattr(logs, "FLUSH_SECONDS", 0.05)
    going = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: going.wait()
    root.handlers[:] = [handler]
    before = logs.dropped.num_dropped
    with logs.in_background():
        for _ in range(100):
            logging.getLogger("quire.test").warning("too much")
    assert logs.dropped.num_dropped >= before + 89
    going.set()
