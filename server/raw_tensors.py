"""Named arrays in bodies that need not be JSON: raw bytes, CSV, numpy's files, forms with files.

A row is one example. What has a media type of its own is read as that; bytes that have none are an example
of a model of bytes (an image, a text), and JSON for others. Sizes are those of what arrived, never those
that a header claims. The module stands on numpy: import it late.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, cast

import numpy as np

from ..errors import InvalidRequest
from ..models.classic.predictor import DTYPES, Array, Arrays, Description, TensorSpec
from .multipart import Part
from .tensors import from_rows, to_array, to_json

JSON = ("application/json", "application/x-json")
CSV = ("text/csv",)
NPY = ("application/x-npy", "application/npy")
RAW = ("application/octet-stream",)
UNNAMED = ("", "text/plain", "application/x-www-form-urlencoded")
"""What clients send that do not care: curl's -T and -d, and texts."""

STAND_INS = ("data", "body")
"""Names by which TorchServe's clients send the only input."""

MAX_NPY_HEADER_BYTES = 4096

_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_FLOAT = re.compile(r"[+-]?([0-9]{1,400}\.?[0-9]{0,400}|\.[0-9]{1,400})(e[+-]?[0-9]{1,4})?")

ParseJson = Callable[[bytes], object]


def from_json(
    description: Description, value: object, where: str = "the body"
) -> tuple[dict[str, Array], bool]:
    """The inputs in a JSON value, and whether it is one example alone and not a list of them.

    The value is an object with the inputs' values, or that of the only input; how deep its lists go says
    whether it is one example.

    Raises:
        InvalidRequest: It is not as described.
    """
    specs = description.inputs
    values: dict[str, object]
    if isinstance(value, dict) and not _is_bytes_object(specs, cast("dict[str, object]", value)):
        values = cast("dict[str, object]", value)
        if len(specs) == 1 and specs[0].name not in values:
            values = {specs[0].name if name in STAND_INS else name: item for name, item in values.items()}
    elif len(specs) == 1:
        values = {specs[0].name: value}
    else:
        raise InvalidRequest(f"{where} must be an object with the inputs {[spec.name for spec in specs]}")
    known = {spec.name: spec for spec in specs}
    single = bool(values) and all(
        name in known and _is_row(description, known[name], item) for name, item in values.items()
    )
    if single:
        return from_rows(description, [values], where), True
    if missing := [name for name in known if name not in values]:
        raise InvalidRequest(f"{where} lacks the inputs {missing}")
    if strangers := sorted(values.keys() - known.keys()):
        shown = [name[:80] for name in strangers[:8]]
        raise InvalidRequest(f"{where}: the model has no inputs {shown}; it takes {list(known)}")
    return {name: to_array(spec, values[name], f"{where}: {name}") for name, spec in known.items()}, False


def from_body(
    description: Description, media_type: str, body: bytes, parse_json: ParseJson
) -> tuple[dict[str, Array], bool]:
    """The inputs in a body of a media type, and whether it is one example; raises as `from_json` does."""
    if media_type in JSON:
        return from_json(description, parse_json(body))
    if len(description.inputs) != 1:
        names = [spec.name for spec in description.inputs]
        raise InvalidRequest(f"the model has the inputs {names}: send JSON, or a form with a part for each")
    (spec,) = description.inputs
    array, single = _read(description, spec, media_type, body, parse_json, "the body")
    return {spec.name: array}, single


def from_parts(
    description: Description, parts: Sequence[Part], parse_json: ParseJson
) -> tuple[dict[str, Array], bool]:
    """The inputs in a form, and whether it holds one example; raises as `from_json` does.

    A part is an input's example, or examples; parts of the same name are examples one after another.
    """
    specs = {spec.name: spec for spec in description.inputs}
    if len(specs) == 1:
        (only,) = specs
        specs |= {name: specs[only] for name in STAND_INS if name not in specs}
    read: dict[str, list[Array]] = {spec.name: [] for spec in description.inputs}
    single = True
    for part in parts:
        spec = specs.get(part.name)
        if spec is None:
            raise InvalidRequest(f"the model has no input {part.name[:80]!r}; it takes {list(read)}")
        where = f"the part {part.name}"
        array, one = _read(description, spec, part.media_type, part.content, parse_json, where)
        read[spec.name].append(array)
        single = single and one and len(read[spec.name]) == 1
    if missing := [name for name, arrays in read.items() if not arrays]:
        raise InvalidRequest(f"the form lacks the inputs {missing}")
    return {name: _joined(name, arrays) for name, arrays in read.items()}, single


def from_csv(spec: TensorSpec, text: bytes, where: str) -> Array:
    """Lines of values, an example on each; an empty value is NaN in a float tensor.

    Raises:
        InvalidRequest: A line has another number of values than an example, or a value is none.
    """
    size = math.prod(spec.shape[1:])
    if spec.shape[:1] != (-1,) or size < 0:
        raise InvalidRequest(f"{where}: {spec.name} has shape {list(spec.shape)}, which CSV cannot write")
    try:
        lines = [line for line in csv.reader(io.StringIO(text.decode(), newline=""), strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidRequest(f"{where} is no CSV in UTF-8: {error}") from None
    for place, line in enumerate(lines):
        if len(line) != size:
            raise InvalidRequest(f"{where}: line {place + 1} has {len(line)} values; an example has {size}")
    cells = list(chain.from_iterable(lines))
    flat = to_array(
        TensorSpec(spec.name, spec.datatype, (-1,)), [_cell(spec, cell, where) for cell in cells], where
    )
    return flat.reshape(len(lines), *spec.shape[1:])


def from_npy(spec: TensorSpec, content: bytes, where: str) -> Array:
    """The array of numpy's file format, converted to the input's datatype if that is of the same kind.

    Raises:
        InvalidRequest: It is no such file, holds objects or what is out of range, or has another size than
            it says.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format is not read")
        read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file, max_header_size=MAX_NPY_HEADER_BYTES)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError, EOFError) as error:
        raise InvalidRequest(f"{where} is no .npy file: {str(error)[:200]}") from None
    if dtype.hasobject or dtype.kind not in "biufSU":
        raise InvalidRequest(f"{where} holds {dtype}, which is no plain type")
    # Nothing is allocated for what a header claims.
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise InvalidRequest(f"{where} says that its shape is {list(shape)[:8]}, which is not its size")
    if not dtype.itemsize:
        raise InvalidRequest(f"{where} holds {dtype}, which has no size")
    flat = np.frombuffer(content, dtype, offset=file.tell())
    array = flat.reshape(shape, order="F" if is_fortran else "C")
    wanted = DTYPES[spec.datatype]
    if wanted.kind == "O":
        return _as_bytes(array, spec, where)
    if not np.can_cast(dtype, wanted, "same_kind") or dtype.kind in "SU":
        raise InvalidRequest(f"{where} holds {dtype}, not {spec.datatype}")
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, wanted)
    if (dtype.kind in "iu" and wanted.kind in "iu" and not np.array_equal(converted, array)) or (
        dtype.kind == "f" and not np.array_equal(np.isinf(converted), np.isinf(array))
    ):
        raise InvalidRequest(f"{where} holds a number that is out of {spec.datatype}'s range")
    return converted


def to_csv(outputs: Arrays) -> bytes:
    """An example on each line: the values of all outputs, one output after another."""
    columns = [array.reshape(array.shape[0] if array.ndim else 1, -1) for array in outputs.values()]
    if len({len(column) for column in columns}) != 1:
        raise InvalidRequest("the outputs do not have the same number of rows; accept application/json")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = list(outputs)
    for place in range(len(columns[0])):
        values = [to_json(name, column[place]) for name, column in zip(names, columns, strict=True)]
        writer.writerow(chain.from_iterable(values))
    return text.getvalue().encode()


def to_npy(outputs: Arrays) -> bytes:
    """The only output, as a file of numpy's."""
    if len(outputs) != 1:
        raise InvalidRequest(f"the model has the outputs {list(outputs)}; a .npy file holds one array")
    ((name, array),) = outputs.items()
    if array.dtype.kind == "O":
        raise InvalidRequest(f"the output {name} is of bytes, which a .npy file does not hold")
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def _read(
    description: Description,
    spec: TensorSpec,
    media_type: str,
    content: bytes,
    parse_json: ParseJson,
    where: str,
) -> tuple[Array, bool]:
    """The array in some bytes, and whether it is one example."""
    if media_type in CSV:
        return from_csv(spec, content, where), False
    if media_type in NPY:
        array = from_npy(spec, content, where)
        if array.ndim == len(spec.shape) - 1:
            return array[None], True
        return array, False
    if media_type in JSON or (media_type in UNNAMED and spec.datatype != "BYTES"):
        one = Description((spec,), (), description.batched)
        arrays, single = from_json(one, {spec.name: parse_json(content)}, where)
        return arrays[spec.name], single
    if spec.datatype == "BYTES":
        return _one_of_bytes(spec, content, where), spec.shape[:1] == (-1,)
    if media_type in RAW:
        return _of_raw(spec, content, where), False
    raise InvalidRequest(
        f"{where} is {media_type[:80]!r}; {spec.name} is {spec.datatype}: send one of "
        f"{', '.join((JSON[0], *CSV, NPY[0], *RAW))}"
    )


def _one_of_bytes(spec: TensorSpec, content: bytes, where: str) -> Array:
    if any(size not in (-1, 1) for size in spec.shape):
        raise InvalidRequest(f"{where}: {spec.name} has shape {list(spec.shape)}, and this is one value")
    array = np.empty(1, DTYPES["BYTES"])
    array[0] = content
    return array.reshape([1] * len(spec.shape))


def _of_raw(spec: TensorSpec, content: bytes, where: str) -> Array:
    """Numbers as they stand in memory, little-endian, row after row."""
    dtype = DTYPES[spec.datatype]
    row = math.prod(spec.shape[1:]) * dtype.itemsize
    if spec.shape[:1] != (-1,) or row <= 0:
        raise InvalidRequest(
            f"{where}: the sizes of {spec.name}, {list(spec.shape)}, do not follow from bytes"
        )
    if not content or len(content) % row:
        raise InvalidRequest(f"{where} has {len(content)} bytes; an example of {spec.name} has {row}")
    return np.frombuffer(content, dtype).reshape(-1, *spec.shape[1:])


def _joined(name: str, arrays: Sequence[Array]) -> Array:
    if len({array.shape[1:] for array in arrays}) > 1:
        raise InvalidRequest(f"the form's examples of {name} have several shapes")
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _cell(spec: TensorSpec, cell: str, where: str) -> Any:
    """What JSON would have for a value of CSV."""
    kind = DTYPES[spec.datatype].kind
    if kind == "O":
        return cell
    text = cell.strip().lower()
    if kind == "f" and text in ("", "nan"):
        return None
    if kind == "b" and text in ("true", "false"):
        return text == "true"
    if kind != "b" and (_FLOAT if kind == "f" else _INTEGER).fullmatch(text):
        return float(text) if kind == "f" else int(text)
    raise InvalidRequest(f"{where} is {spec.datatype}, not {cell[:40]!r}")


def _as_bytes(array: Array, spec: TensorSpec, where: str) -> Array:
    if array.dtype.kind not in "SU":
        raise InvalidRequest(f"{where} holds {array.dtype}, not strings, as {spec.name} is")
    items = [item if isinstance(item, bytes) else item.encode() for item in array.ravel().tolist()]
    flat = np.empty(len(items), DTYPES["BYTES"])
    flat[:] = items
    return flat.reshape(array.shape)


def _is_row(description: Description, spec: TensorSpec, value: object) -> bool:
    """Whether nested lists are one row of an input, by their depth."""
    if not description.batched or spec.shape[:1] != (-1,):
        return False
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = cast("list[object]", value)[0] if value else None
    return depth == len(spec.shape) - 1


def _is_bytes_object(specs: Sequence[TensorSpec], value: dict[str, object]) -> bool:
    return (
        len(specs) == 1 and specs[0].datatype == "BYTES" and list(value) == ["b64"] and specs[0].name != "b64"
    )
