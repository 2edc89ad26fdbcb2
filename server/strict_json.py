"""JSON as RFC 8259 has it, and nothing that two parsers could read differently.

Python's own decoder takes NaN, Infinity, 1e999, lone surrogates and doubled keys; here they are
errors. Depth and number of values are checked by a scan before anything is built, so that a few
megabytes of brackets neither exhaust the stack nor fill the memory.
"""

from __future__ import annotations

import json
import math
from typing import NoReturn

from ..errors import InvalidRequest

MAX_INTEGER_DIGITS = 40  # beyond every number that a field can take, and cheap to convert
SCAN_BYTES = 64 * 1024  # other threads run between two pieces

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{},'))
_OPENING = frozenset(b"[{")


def parse(body: bytes, *, max_depth: int = 64, max_values: int = 1 << 19) -> object:
    """The value of a JSON text in UTF-8; `InvalidRequest` says what is wrong with it."""
    check_structure(body, max_depth=max_depth, max_values=max_values)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    if "\\ud" in text or "\\uD" in text:
        _refuse_lone_surrogates(value)
    return value


def check_structure(body: bytes, *, max_depth: int, max_values: int) -> None:
    """Raises `InvalidRequest` if the text nests too deep or holds too many values.

    Works on pieces in constant memory. On a text that is not JSON the counts hold for the part
    before the first error, which is as far as the decoder goes.
    """
    depth = 0
    num_values = 1
    inside_string = False
    escaped = False  # the last piece ended within an escape
    for start in range(0, len(body), SCAN_BYTES):
        piece = body[start + escaped : start + SCAN_BYTES]
        escaped = False
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"")
            escaped = piece.endswith(b"\\")
            piece = piece.replace(b'\\"', b"")
        parts = piece.translate(None, _NOT_STRUCTURE).split(b'"')
        structure = b"".join(parts[inside_string::2])
        inside_string ^= len(parts) % 2 == 0
        brackets = structure.translate(None, b",")
        num_values += len(structure) - len(brackets) + brackets.count(b"[") + brackets.count(b"{")
        if num_values > max_values:
            raise InvalidRequest(f"the body holds more than {max_values} JSON values")
        for bracket in brackets:
            depth += 1 if bracket in _OPENING else -1
            if depth > max_depth:
                raise InvalidRequest(f"the body nests deeper than {max_depth} levels")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidRequest(f"the key {key[:80]!r} appears twice in one object", param=key[:80])
            seen.add(key)
    return result


def _integer(digits: str) -> int:
    if len(digits) > MAX_INTEGER_DIGITS:
        raise InvalidRequest(f"the body holds an integer of {len(digits)} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise InvalidRequest(f"the number {digits[:40]} is out of range")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not JSON")


def _refuse_lone_surrogates(value: object) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= character <= "\udfff" for character in item):
                raise InvalidRequest("the body holds a lone surrogate, which is no character")
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
