"""TOML tables as objects, strictly: an unknown key or a value of another type is named with its table."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from .plan import ConfigError

S = TypeVar("S", bound=msgspec.Struct)

_PLACE = re.compile(r" - at `(?:key in )?\$(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")

UNITS = {
    "": 1,
    "B": 1,
    **{f"{unit}B": 1000**power for power, unit in enumerate("KMGT", 1)},
    **{f"{unit}iB": 1024**power for power, unit in enumerate("KMGT", 1)},
}


def table_of(
    settings: type[Any],
    name: str,
    *,
    without: Sequence[str] = (),
    more: Sequence[tuple[str, Any, Any]] = (),
) -> type[msgspec.Struct]:
    """The type of a table that has the fields of a settings object. Those that are left out are unset.

    Args:
        settings: A dataclass.
        name: The type's.
        without: Fields that the table does not have.
        more: Further ones: name, type, default (`msgspec.NODEFAULT` for one that must be there).
    """
    types = get_type_hints(settings)
    fields: list[tuple[str, Any, Any]] = [
        (each.name, types[each.name] | msgspec.UnsetType, msgspec.UNSET)
        for each in dataclasses.fields(settings)
        if each.name not in without
    ]
    return msgspec.defstruct(name, [*fields, *more], kw_only=True, forbid_unknown_fields=True)


def read_table(table: object, kind: type[S], where: str) -> S:
    """A table as an object. Raises `ConfigError`, which begins with `where`."""
    try:
        return msgspec.convert(table, kind, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error))}") from None


def given(table: msgspec.Struct, *names: str) -> dict[str, Any]:
    """The fields that a table sets, or those of them that are named."""
    values = ((name, getattr(table, name)) for name in names or table.__struct_fields__)
    return {name: value for name, value in values if value is not msgspec.UNSET}


def make(where: str, kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A settings object. Raises `ConfigError` where it raises ValueError."""
    try:
        return kind(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def read_bytes(value: int | str, what: str) -> int:
    """A number of bytes, as a number or as "8GiB". Raises `ConfigError`."""
    if isinstance(value, int):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)", value.strip())
    if match is None or match[2] not in UNITS:
        raise ConfigError(f'{what} must be a number of bytes, or such as "8GiB", got {value!r}')
    return int(float(match[1]) * UNITS[match[2]])


def _decode(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError  # msgspec says then what it expected


def _explain(text: str) -> str:
    place = ""
    if (found := _PLACE.search(text)) is not None:
        place, text = found[1].lstrip("."), text[: found.start()]
    if (found := _UNKNOWN.fullmatch(text)) is not None:
        return f"there is no key {'.'.join(filter(None, (place, found[1])))!r}"
    if (found := _MISSING.fullmatch(text)) is not None:
        return f"the key {'.'.join(filter(None, (place, found[1])))!r} is missing"
    return f"{place}: {text}" if place else text
