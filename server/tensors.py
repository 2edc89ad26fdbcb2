"""Named arrays as JSON writes them, by a model's description: in rows, one example after another, or in
columns, one tensor after another.

Values are taken as they are described and never converted from other types: 1 is a float, too, but "1" and
true are not, nor is 1.0 an integer. JSON has no NaN: null stands for it in float tensors. Strings are UTF-8;
other bytes are `{"b64": "..."}`, as TF Serving writes them.

Everything here is allocated for values that have arrived, never for a size that a client claims. The module
stands on numpy: import it late.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np

from ..errors import InvalidRequest
from ..models.classic.predictor import DTYPES, Array, Arrays, Description, TensorSpec

BYTES_PER_VALUE = 20
"""Of a number in JSON, about."""

B64 = "b64"
NONE = type(None)

_TYPES: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset((bool,)), "true or false"),
    "i": (frozenset((int,)), "whole numbers"),
    "u": (frozenset((int,)), "whole numbers"),
    "f": (frozenset((int, float, NONE)), "numbers"),
    "O": (frozenset((str, dict)), 'strings or {"b64": ...}'),
}
"""Per kind of numpy dtype: the Python types of JSON that it takes, and what messages call them."""


def from_rows(description: Description, rows: object, param: str) -> dict[str, Array]:
    """A request's inputs, given as a list of examples.

    An example is an object with a value for every input or, where there is one input, its value alone.

    Args:
        description: What the model takes.
        rows: The JSON value.
        param: What the request calls it.

    Raises:
        InvalidRequest: A value is not as described; the message says which.
    """
    if not isinstance(rows, list):
        raise InvalidRequest(f"{param} must be a list of examples", param=param)
    examples = cast("list[object]", rows)
    specs = description.inputs
    for spec in specs:
        if not spec.shape:
            raise InvalidRequest(f"the input {spec.name} has no rows; give it in columns", param=param)
    if len(specs) == 1 and not _are_objects(specs[0], examples):
        return {specs[0].name: to_array(specs[0], examples, param)}
    columns: dict[str, list[object]] = {spec.name: [] for spec in specs}
    for place, example in enumerate(examples):
        where = f"{param}[{place}]"
        if not isinstance(example, dict):
            raise InvalidRequest(f"{where} must be an object with the inputs {list(columns)}", param=param)
        values = check_names(specs, cast("dict[str, object]", example), where)
        for name, column in columns.items():
            column.append(values[name])
    return {spec.name: to_array(spec, columns[spec.name], f"{param}[...].{spec.name}") for spec in specs}


def from_columns(description: Description, columns: object, param: str) -> dict[str, Array]:
    """A request's inputs, given as an object with each input's whole tensor or, where there is one, alone.

    Raises as `from_rows` does.
    """
    specs = description.inputs
    if isinstance(columns, dict) and not (len(specs) == 1 and _is_bytes(specs[0], columns)):
        values = check_names(specs, cast("dict[str, object]", columns), param)
        return {spec.name: to_array(spec, values[spec.name], f"{param}.{spec.name}") for spec in specs}
    if len(specs) != 1:
        raise InvalidRequest(
            f"{param} must be an object with the inputs {[spec.name for spec in specs]}", param=param
        )
    return {specs[0].name: to_array(specs[0], columns, param)}


def check_names(
    specs: Sequence[TensorSpec], values: Mapping[str, object], where: str
) -> Mapping[str, object]:
    """The values, or InvalidRequest if an input has none or there is one for no input."""
    names = [spec.name for spec in specs]
    if missing := [name for name in names if name not in values]:
        raise InvalidRequest(f"{where} lacks the inputs {missing}", param=where)
    if strangers := sorted(values.keys() - set(names)):
        shown = [name[:80] for name in strangers[:8]]
        raise InvalidRequest(f"{where}: the model has no inputs {shown}; it takes {names}", param=where)
    return values


def to_array(spec: TensorSpec, value: object, where: str) -> Array:
    """The array that nested lists write.

    Args:
        spec: The input's name, datatype and shape.
        value: Lists within lists, as many as the shape has dimensions.
        where: What messages call the value.

    Raises:
        InvalidRequest: The lists are of another depth or uneven, or a value of another type or out of range.
    """
    values, shape = _flatten(value, spec, where)
    dtype = DTYPES[spec.datatype]
    taken, called = _TYPES[dtype.kind]
    if strangers := set(map(type, values)) - taken:
        if strangers & {list, dict}:
            raise InvalidRequest(f"{where}: {_depth(spec)}, and here they hold more", param=where)
        found = next(item for item in values if type(item) in strangers)
        raise InvalidRequest(f"{where} is {spec.datatype}: {called}, not {_shown(found)}", param=where)
    if dtype.kind == "O":
        array = np.empty(len(values), dtype)
        array[:] = [_to_bytes(item, where) for item in values]
        return array.reshape(shape)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, dtype)
    except OverflowError:
        raise _out_of_range(spec, where) from None
    # JSON's numbers are finite: what is not so now, or null, is too large.
    if dtype.kind == "f" and np.isinf(array).any():
        raise _out_of_range(spec, where)
    return array.reshape(shape)


def to_rows(outputs: Arrays) -> list[Any]:
    """Outputs as a list of examples: values where there is one output, else objects by name.

    Raises:
        InvalidRequest: The outputs do not have the same number of rows.
    """
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    if len(set(sizes.values())) != 1 or None in sizes.values():
        raise InvalidRequest(
            f"the outputs {sorted(sizes)} do not have the same number of rows; ask in columns", param="inputs"
        )
    values = {name: to_json(name, array) for name, array in outputs.items()}
    if len(values) == 1:
        return next(iter(values.values()))
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def to_columns(outputs: Arrays) -> Any:
    """Outputs as an object of tensors by name, or alone where there is one."""
    values = {name: to_json(name, array) for name, array in outputs.items()}
    return next(iter(values.values())) if len(values) == 1 else values


def to_json(name: str, array: Array) -> Any:
    """An array as nested lists; bytes are strings, or base64 if they are not UTF-8 or called `..._bytes`."""
    if array.dtype.kind != "O":
        return array.tolist()
    binary = name.endswith("_bytes")
    return _map(array.tolist(), array.ndim, lambda item: _from_bytes(item, binary))


def _flatten(value: object, spec: TensorSpec, where: str) -> tuple[list[Any], tuple[int, ...]]:
    """The values of evenly nested lists, and their shape."""
    level: list[Any] = [value]
    shape: list[int] = []
    for axis, wanted in enumerate(spec.shape):
        if not level:  # nothing is left to say how large the dimensions are
            shape.append(max(0, wanted))
            continue
        if set(map(type, level)) != {list}:
            raise InvalidRequest(f"{where}: {_depth(spec)}, not {axis}", param=where)
        sizes = set(map(len, level))
        if len(sizes) > 1:
            raise InvalidRequest(
                f"{where}: the lists of dimension {axis} have from {min(sizes)} to {max(sizes)} items; "
                "they must have the same number",
                param=where,
            )
        size = sizes.pop()
        if wanted not in (-1, size):
            raise InvalidRequest(
                f"{where}: dimension {axis} of {spec.name} has size {size}, not {wanted}", param=where
            )
        shape.append(size)
        level = list(chain.from_iterable(level))
    return level, tuple(shape)


def _depth(spec: TensorSpec) -> str:
    return f"{spec.name} has shape {list(spec.shape)}: lists nested {len(spec.shape)} deep"


def _are_objects(spec: TensorSpec, examples: Sequence[object]) -> bool:
    """Whether the examples of a model with one input name it."""
    first = examples[0] if examples else None
    return isinstance(first, dict) and not _is_bytes(spec, cast("dict[str, object]", first))


def _is_bytes(spec: TensorSpec, value: Mapping[Any, Any]) -> bool:
    return spec.datatype == "BYTES" and list(value) == [B64] and spec.name != B64


def _to_bytes(item: str | dict[str, object], where: str) -> bytes:
    if isinstance(item, str):
        return item.encode()
    encoded = item.get(B64)
    if len(item) != 1 or not isinstance(encoded, str):
        raise InvalidRequest(f'{where}: bytes are {{"b64": "..."}}, and nothing besides', param=where)
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{where}: b64 is not base64: {error}", param=where) from None


def _from_bytes(item: bytes, binary: bool) -> str | dict[str, str]:
    if not binary:
        try:
            return item.decode()
        except UnicodeDecodeError:
            pass
    return {B64: base64.b64encode(item).decode()}


def _map(value: Any, depth: int, convert: Callable[[Any], Any]) -> Any:
    return convert(value) if depth == 0 else [_map(item, depth - 1, convert) for item in value]


def _shown(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)[:80] if isinstance(value, int | float | str) else type(value).__name__


def _out_of_range(spec: TensorSpec, where: str) -> InvalidRequest:
    return InvalidRequest(f"{where} holds a number that is out of {spec.datatype}'s range", param=where)


def num_values(arrays: Arrays) -> int:
    """How many values arrays hold: what it costs to write them."""
    return sum(math.prod(array.shape) for array in arrays.values())
