"""Tensors between the wire and numpy. Imported when there is a classic model, as numpy is.

A count is checked against what was sent before anything of its size is made.
"""

from __future__ import annotations

import itertools
import math
import struct
import types
from collections.abc import Iterable
from typing import Any, cast

import msgspec
import numpy as np

from ...errors import EngineError, InvalidRequest
from ...models.classic.predictor import DTYPES, Array, datatype
from .protocol import InputTensor

MAX_DIMENSIONS = 32
_LENGTH = struct.Struct("<I")

_KINDS: dict[str, type] = {
    "BOOL": bool,
    **{f"{sign}INT{bits}": int for sign in ("", "U") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": float for bits in (16, 32, 64)},
    "BYTES": str,
}
_FLAT: dict[str, msgspec.json.Decoder[list[Any]]] = {
    name: msgspec.json.Decoder(types.GenericAlias(list, kind)) for name, kind in _KINDS.items()
}
_ACCEPTED: dict[type, frozenset[type]] = {
    bool: frozenset((bool,)),
    int: frozenset((int,)),
    float: frozenset((int, float)),
    str: frozenset((str,)),
}


def count_of(tensor: InputTensor) -> int:
    """The elements that a shape promises; raises InvalidRequest if it is no shape."""
    shape = tensor.shape
    if len(shape) > MAX_DIMENSIONS:
        raise _invalid(tensor.name, f"has {len(shape)} dimensions; at most {MAX_DIMENSIONS} are possible")
    if shape and min(shape) < 0:
        raise _invalid(tensor.name, f"has the shape {shape}; sizes must not be negative")
    return math.prod(shape)


def from_json(tensor: InputTensor) -> Array:
    """The array of a tensor whose values stand in the JSON."""
    count = count_of(tensor)
    decoder = _FLAT.get(tensor.datatype)
    if decoder is None:
        raise _unknown_datatype(tensor)
    if not tensor.data:
        raise _invalid(tensor.name, "has no data")
    try:
        values = decoder.decode(tensor.data)
    except msgspec.ValidationError as error:
        values = _flattened(tensor, error)
    return _shaped(tensor, values, count)


def from_values(tensor: InputTensor, values: list[Any]) -> Array:
    """The array of a tensor whose values are there, flat, and of the kind that its datatype asks for."""
    if tensor.datatype not in DTYPES:
        raise _unknown_datatype(tensor)
    return _shaped(tensor, values, count_of(tensor))


def _shaped(tensor: InputTensor, values: list[Any], count: int) -> Array:
    if len(values) != count:
        raise _invalid(tensor.name, f"has {len(values)} values; its shape {tensor.shape} asks for {count}")
    if tensor.datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = [value.encode() if isinstance(value, str) else value for value in values]
    else:
        array = _numbers(tensor, values)
    return array.reshape(tensor.shape)


def _flattened(tensor: InputTensor, error: msgspec.ValidationError) -> list[Any]:
    """The values of nested lists, which must nest as the shape says."""
    try:
        values: object = msgspec.json.decode(tensor.data)
    except (msgspec.DecodeError, RecursionError):  # a number that is none, or too deep
        raise _invalid(tensor.name, f"is {tensor.datatype}, and its data is not: {error}") from None
    if not isinstance(values, list):
        raise _invalid(tensor.name, "must have a list as its data")
    level = cast("list[Any]", values)
    if not any(isinstance(item, list) for item in level):
        raise _invalid(tensor.name, f"is {tensor.datatype}, and its data is not: {error}")
    for size in tensor.shape[1:]:
        if not all(isinstance(item, list) and len(cast("list[Any]", item)) == size for item in level):
            raise _invalid(tensor.name, f"has data that does not nest as its shape {tensor.shape}")
        level = list(itertools.chain.from_iterable(level))
    if strangers := set(map(type, level)) - _ACCEPTED[_KINDS[tensor.datatype]]:
        found = ", ".join(sorted(kind.__name__ for kind in strangers))
        raise _invalid(tensor.name, f"is {tensor.datatype}, and its data holds values of the kind {found}")
    return level


def _numbers(tensor: InputTensor, values: list[Any]) -> Array:
    dtype = DTYPES[tensor.datatype]
    try:
        if dtype.kind != "f" or dtype.itemsize == 8:
            return np.array(values, dtype)
        with np.errstate(over="raise"):
            return np.array(values, np.float64).astype(dtype)
    except (OverflowError, FloatingPointError):
        raise _invalid(tensor.name, f"holds a number that {tensor.datatype} does not") from None


def from_binary(tensor: InputTensor, part: memoryview) -> Array:
    """The array of a tensor whose values stand behind the JSON, as little-endian bytes in row-major order."""
    count = count_of(tensor)
    if tensor.datatype == "BYTES":
        return _bytes_from_binary(tensor, part, count)
    dtype = DTYPES.get(tensor.datatype)
    if dtype is None:
        raise _unknown_datatype(tensor)
    if len(part) != count * dtype.itemsize:
        raise _invalid(
            tensor.name,
            f"has {len(part)} bytes; its shape {tensor.shape} asks for {count * dtype.itemsize}",
        )
    if dtype.kind == "b" and (np.frombuffer(part, np.uint8) > 1).any():
        raise _invalid(tensor.name, "is BOOL, and holds bytes that are neither 0 nor 1")
    return np.frombuffer(part, dtype).reshape(tensor.shape)


def _bytes_from_binary(tensor: InputTensor, part: memoryview, count: int) -> Array:
    if count * _LENGTH.size > len(part):
        raise _invalid(tensor.name, f"has {len(part)} bytes, too few for the shape {tensor.shape}")
    array = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        if position + _LENGTH.size > len(part):
            raise _invalid(tensor.name, f"ends before its element {index}")
        (size,) = _LENGTH.unpack_from(part, position)
        position += _LENGTH.size
        if size > len(part) - position:
            raise _invalid(tensor.name, f"has an element {index} that is longer than the tensor")
        array[index] = bytes(part[position : position + size])
        position += size
    if position != len(part):
        raise _invalid(tensor.name, f"has {len(part) - position} bytes behind its last element")
    return array.reshape(tensor.shape)


def raw_shape(shape: Iterable[int], datatype: str, num_bytes: int, *, batched: bool) -> list[int]:
    """The shape of a tensor that is a whole request's body: one row, and at most one size to be found.

    Raises InvalidRequest if the body does not say it.
    """
    sizes = list(shape)
    if batched:
        sizes[0] = 1
    if datatype == "BYTES":  # the body is the one element
        return [1 if size == -1 else size for size in sizes]
    if sizes.count(-1) > 1:
        raise InvalidRequest(
            f"a body without JSON does not tell the sizes of an input of shape {list(shape)}", param="inputs"
        )
    if -1 in sizes:
        known = math.prod(size for size in sizes if size != -1) * DTYPES[datatype].itemsize
        sizes[sizes.index(-1)] = num_bytes // known if known else 0
    return sizes


def to_json(name: str, array: Array) -> list[Any]:
    """The values of an output, flat."""
    values: list[Any] = array.ravel().tolist()
    if array.dtype.kind not in "OSU":
        return values
    try:
        return [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        raise InvalidRequest(
            f"output {name} holds bytes that are not UTF-8, which JSON cannot; ask for binary_data",
            param="outputs",
        ) from None


def texts(values: list[str]) -> Array:
    """An array of BYTES."""
    array = np.empty(len(values), dtype=object)
    array[:] = [value.encode() for value in values]
    return array


def to_binary(array: Array) -> bytes:
    """An output's bytes, little-endian in row-major order; BYTES elements with their lengths before them."""
    kind = datatype(array.dtype)
    if kind != "BYTES":
        return np.ascontiguousarray(array, DTYPES[kind]).tobytes()
    items = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return b"".join(part for item in items for part in (_LENGTH.pack(len(item)), item))


def classes(name: str, array: Array, num_classes: int, *, batched: bool) -> Array:
    """Triton's classification of an output: the highest values of each row, as "value:index"."""
    if array.dtype.kind not in "iuf":
        raise InvalidRequest(f"output {name} is no numbers, and has no classes", param="classification")
    rows = array.reshape(array.shape[0] if batched else 1, -1)
    if not rows.shape[1]:
        raise EngineError(f"output {name} is empty")
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :num_classes]
    found = np.empty(order.shape, dtype=object)
    for row, indices in enumerate(order):
        found[row, :] = [f"{float(rows[row, index]):f}:{index}".encode() for index in indices]
    return found if batched else found[0]


def _unknown_datatype(tensor: InputTensor) -> InvalidRequest:
    return _invalid(
        tensor.name, f"has the datatype {tensor.datatype[:40]!r}; there are {', '.join(sorted(DTYPES))}"
    )


def _invalid(name: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"input {name[:120]!r} {what}", param="inputs")
