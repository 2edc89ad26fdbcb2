"""Bodies of `/invocations` for classic models: JSON, JSON lines, CSV and numpy's files, in and out.

Stands on numpy: imported with the first request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import msgspec

from ...errors import InvalidRequest
from ...models.classic.predictor import Array, Arrays, Description
from ..raw_tensors import CSV, JSON, NPY, UNNAMED, from_body, from_json, to_csv, to_npy
from ..tensors import from_rows, to_rows
from ..tf_serving.bodies import read_body, write_body

LINES = ("application/jsonlines", "application/x-ndjson")
FORM_KEYS = frozenset(("instances", "inputs", "examples"))
"""Keys of TensorFlow Serving's requests, which SageMaker's containers take, too."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a body holds, and the form of its answer.

    Attributes:
        inputs: The tensors.
        form: TensorFlow Serving's, in rows or columns; or a value for one example, or a list of them.
        method: For TensorFlow Serving's form.
    """

    inputs: dict[str, Array]
    form: Literal["rows", "columns", "one", "list"]
    method: str = "predict"


def read(
    description: Description,
    media_type: str,
    body: bytes,
    method: str,
    parse: Callable[[bytes], object],
    max_lines: int,
) -> Asked:
    """The inputs in a body.

    Raises:
        InvalidRequest: They are not as described.
    """
    if media_type in LINES:
        return Asked(_read_lines(description, body, parse, max_lines), "list")
    if media_type in JSON or (media_type in UNNAMED and description.inputs[0].datatype != "BYTES"):
        value = parse(body)
        if isinstance(value, dict):
            members = cast("dict[str, object]", value)
            names = {spec.name for spec in description.inputs}
            if members.keys() & FORM_KEYS and not members.keys() & names:
                inputs, in_rows = read_body(description, members, method)
                return Asked(inputs, "rows" if in_rows else "columns", method)
        inputs, single = from_json(description, value)
    else:
        inputs, single = from_body(description, media_type, body, parse)
    if method != "predict":
        raise InvalidRequest(f"tfs-method {method} needs a body with examples")
    return Asked(inputs, "one" if single else "list")


def accepted(accept: str, media_type: str) -> str:
    """The media type of the answer: the first that the client accepts; without one, CSV for CSV, else JSON.

    Raises:
        InvalidRequest: None of those that it accepts is offered.
    """
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for each in wanted:
        if each in (*JSON, *CSV, *NPY, *LINES):
            return each
        if each in ("", "*/*", "application/*"):
            return CSV[0] if media_type in CSV else JSON[0]
    offered = ", ".join((JSON[0], LINES[0], CSV[0], NPY[0]))
    raise InvalidRequest(f"Accept is {accept[:80]!r}; there are {offered}", param="Accept")


def write(outputs: Arrays, asked: Asked, media_type: str) -> bytes:
    """The answer's body.

    Raises:
        InvalidRequest: The media type cannot hold the outputs.
    """
    if media_type in CSV:
        return to_csv(outputs)
    if media_type in NPY:
        return to_npy(outputs)
    if media_type in LINES:
        return b"".join(msgspec.json.encode(row) + b"\n" for row in to_rows(outputs))
    if asked.form in ("rows", "columns"):
        return write_body(outputs, asked.method, in_rows=asked.form == "rows")
    rows = to_rows(outputs)
    return msgspec.json.encode(rows[0] if asked.form == "one" else rows)


def _read_lines(
    description: Description, body: bytes, parse: Callable[[bytes], object], max_lines: int
) -> dict[str, Array]:
    lines = body.split(b"\n", max_lines)
    if len(lines) > max_lines:
        raise InvalidRequest(f"the body may have at most {max_lines} lines")
    rows: list[object] = []
    for place, line in enumerate(lines):
        if line.strip():
            try:
                rows.append(parse(line))
            except InvalidRequest as error:
                raise InvalidRequest(f"line {place + 1}: {error.message}") from None
    return from_rows(description, rows, "the lines")
