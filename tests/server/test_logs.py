"""Logging behind a queue."""

from __future__ import annotations

import io
import logging
import threading
import time

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


def test_lines_are_written_together_and_as_alone(root: logging.Logger) -> None:
    """Each with its own time and prefix, between the records around them, and none is lost."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(created).3f %(levelname)s %(name)s: %(message)s"))
    root.handlers[:] = [handler]
    logger = logging.getLogger("quire.test")
    with logs.in_background():
        for number in range(1000):
            logs.log_line(logger, logging.WARNING, f"line {number} %s")
        logs.log_line(logger, logging.ERROR, "an error")
    lines = stream.getvalue().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        *(f"WARNING quire.test: line {number} %s" for number in range(1000)),
        "ERROR quire.test: an error",
    ]
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)
    assert abs(times[0] - time.time()) < 600


def test_lines_that_cannot_be_written_are_counted(root: logging.Logger) -> None:
    class Disk(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    root.handlers[:] = [logging.StreamHandler(Disk()), Full()]
    before = logs.dropped.num_dropped
    with logs.in_background():
        for _ in range(5):
            logs.log_line(logging.getLogger("quire.test"), logging.WARNING, "lost")
    assert logs.dropped.num_dropped == before + 10


def test_without_a_background_lines_are_records(caplog: pytest.LogCaptureFixture) -> None:
    logs.log_line(logging.getLogger("quire.test"), logging.WARNING, "100% at once")
    assert [record.getMessage() for record in caplog.records] == ["100% at once"]
