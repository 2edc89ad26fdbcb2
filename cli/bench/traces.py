"""Recorded arrivals: CSV with times, input and output tokens, as Azure and BurstGPT publish it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...errors import InvalidRequest

# What columns are called, in small letters and without anything but letters.
TIME_COLUMNS = ("timestamp", "time", "arrivaltime", "arrivaltimestamp", "arrivedat", "starttime")
INPUT_COLUMNS = (
    "contexttokens",
    "requesttokens",
    "inputtokens",
    "prompttokens",
    "inputlength",
    "promptlength",
    "inputlen",
    "promptlen",
    "numprefilltokens",
)
OUTPUT_COLUMNS = (
    "generatedtokens",
    "responsetokens",
    "outputtokens",
    "completiontokens",
    "outputlength",
    "outputlen",
    "numdecodetokens",
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A recorded request: seconds since the trace's first one, and its tokens."""

    time: float
    num_input: int
    num_output: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals in the order of time.

    Attributes:
        num_skipped: Rows without input or without output: requests that failed when they were recorded.
    """

    arrivals: list[Arrival]
    num_skipped: int


def read_trace(path: Path) -> Trace:
    """Reads a trace. Its times are seconds, or dates.

    Raises:
        InvalidRequest: The file cannot be read, a column is missing, or a value is wrong; names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(_rows(path, file))
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{path} is no CSV of UTF-8 text: {error}") from error
    kept = sorted((row for row in rows if row.num_input and row.num_output), key=lambda row: row.time)
    if not kept:
        raise InvalidRequest(f"{path} has no requests")
    first = kept[0].time
    arrivals = [Arrival(row.time - first, row.num_input, row.num_output) for row in kept]
    return Trace(arrivals, len(rows) - len(kept))


def _rows(path: Path, lines: Iterator[str]) -> Iterator[Arrival]:
    reader = csv.reader(lines)
    header = next(reader, [])
    names = ("time", "input tokens", "output tokens")
    columns = [
        _find(path, header, known, name)
        for known, name in zip((TIME_COLUMNS, INPUT_COLUMNS, OUTPUT_COLUMNS), names, strict=True)
    ]
    for row in reader:
        if not row:
            continue
        where = f"{path}, line {reader.line_num}"
        if len(row) <= max(columns):
            raise InvalidRequest(f"{where}: {len(row)} columns, where the header has {len(header)}")
        time, num_input, num_output = (row[column].strip() for column in columns)
        yield Arrival(
            _seconds(where, time), _tokens(where, names[1], num_input), _tokens(where, names[2], num_output)
        )


def _find(path: Path, header: Sequence[str], known: Sequence[str], name: str) -> int:
    plain = [re.sub(r"[^a-z]", "", column.lower()) for column in header]
    found = [plain.index(each) for each in known if each in plain]
    if not found:
        shown = ", ".join(header)[:200] or "nothing"
        raise InvalidRequest(
            f"{path} has no column for the {name}, such as {known[0]}; its header is {shown}"
        )
    return found[0]


def _seconds(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        try:
            date = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
        except ValueError as error:
            raise InvalidRequest(f"{where}: {text!r} is neither seconds nor a date") from error
        # Without a zone, two times of one trace still have the right distance.
        epoch = datetime(1970, 1, 1, tzinfo=None if date.tzinfo is None else UTC)
        return (date - epoch).total_seconds()
    if not math.isfinite(value):
        raise InvalidRequest(f"{where}: {text!r} is no time")
    return value


def _tokens(where: str, name: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}(\.0*)?", text):
        raise InvalidRequest(f"{where}: {text!r} is no number of {name}")
    return int(float(text))
