"""Reading a model folder's JSON files, whose contents nobody has vouched for.

Every getter checks the type and the range, and says in a `ModelError` which field of which file is
wrong. null counts as absent, as it does in Hugging Face's own loaders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ..errors import ModelError

MAX_JSON_BYTES = 64 << 20
MAX_SIZE = 1 << 24
"""Larger than any dimension of any model, small enough that products of two fit 64 bits."""

MAX_NUMBER = 1e30


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Reads a JSON object. Raises `ModelError` naming the file if it is missing, too large or malformed."""
    value = _read(path, max_bytes)
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object.")
    return cast("dict[str, Any]", value)


def read_json_list(path: Path) -> list[dict[str, Any]]:
    """Reads a JSON list of objects. Raises `ModelError` as `read_json` does."""
    value = _read(path, MAX_JSON_BYTES)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ModelError(f"{path} must hold a JSON list of objects.")
    return cast("list[dict[str, Any]]", value)


def _read(path: Path, max_bytes: int) -> object:
    try:
        if path.stat().st_size > max_bytes:
            raise ModelError(f"{path} is larger than {max_bytes} bytes.")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist.") from error
    # ValueError covers bad UTF-8, bad JSON and numbers of absurd length.
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


class Fields:
    """Typed, checked access to one JSON object.

    Args:
        values: The object.
        source: What messages call it, e.g. "config.json".
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values = values
        self.source = source

    def error(self, name: str, expected: str) -> ModelError:
        """The error for a field that is not what it must be."""
        shown = repr(self.values.get(name))
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return ModelError(f"{self.source}: {name} must be {expected}, got {shown}.")

    def has(self, name: str) -> bool:
        """Whether the field is present and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE) -> int:
        """An integer in `low..high`; required if there is no default."""
        value: object = self.values.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"an integer between {low} and {high}")
        return value

    def number(self, name: str, default: float | None = None, *, low: float = 0.0) -> float:
        """A finite number greater than `low`; required if there is no default."""
        value: object = self.values.get(name)
        if value is None and default is not None:
            return default
        # A limit rather than isfinite, because JSON's integers can be too long for a float.
        if isinstance(value, int | float) and not isinstance(value, bool) and low < value < MAX_NUMBER:
            return float(value)
        raise self.error(name, f"a number greater than {low:g}")

    def optional_number(self, name: str, *, low: float = 0.0) -> float | None:
        """Like `number`, or None if the field is absent."""
        return self.number(name, low=low) if self.has(name) else None

    def boolean(self, name: str, default: bool = False) -> bool:
        """true or false; the default if the field is absent."""
        value: object = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def string(self, name: str, default: str | None = None) -> str:
        """A string; required if there is no default."""
        value: object = self.values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def strings(self, name: str) -> list[str]:
        """A list of strings; empty if the field is absent."""
        value: object = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, "a list of strings")
        return cast("list[str]", value)

    def integers(self, name: str) -> list[int]:
        """A list of integers, or a single one; empty if the field is absent."""
        value: object = self.values.get(name)
        if value is None:
            return []
        items = cast("list[object]", value if isinstance(value, list) else [value])
        if not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
            raise self.error(name, "an integer or a list of integers")
        return cast("list[int]", items)

    def object(self, name: str) -> Fields | None:
        """A nested object, or None if the field is absent."""
        value: object = self.values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return Fields(cast("dict[str, Any]", value), f"{self.source}: {name}")
