"""The parameters of management requests, which stand in the query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from starlette.requests import Request

from ...errors import InvalidRequest

MAX_DIGITS = 12

N = TypeVar("N", int, int | None)


class Query:
    """A request's query, read parameter by parameter; `end` refuses what nobody has read."""

    def __init__(self, request: Request) -> None:
        self._left: dict[str, str] = {}
        for name, value in request.query_params.multi_items():
            if name in self._left:
                raise InvalidRequest(f"{name[:80]!r} is given twice", param=name[:80])
            self._left[name] = value

    def text(self, name: str) -> str | None:
        """A string, or None if it is not given, or empty."""
        return self._left.pop(name, "") or None

    def number(self, name: str, default: N, least: int, most: int) -> int | N:
        """A whole number within bounds. Raises `InvalidRequest` if it is none."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS):
            raise InvalidRequest(f"{name} must be a whole number, not {value[:40]!r}", param=name)
        if not least <= int(value) <= most:
            raise InvalidRequest(f"{name} must be from {least} to {most}, not {value}", param=name)
        return int(value)

    def flag(self, name: str) -> bool:
        """True or false, which is the default."""
        value = self._left.pop(name, "false").lower()
        if value not in ("true", "false"):
            raise InvalidRequest(f"{name} must be true or false, not {value[:40]!r}", param=name)
        return value == "true"

    def end(self, neutral: Mapping[str, str] | None = None) -> None:
        """Raises `InvalidRequest` if something is left, but for values that ask for nothing."""
        for name, value in self._left.items():
            if (neutral or {}).get(name) != value.lower():
                raise InvalidRequest(f"{name[:80]} is not offered", param=name[:80])
