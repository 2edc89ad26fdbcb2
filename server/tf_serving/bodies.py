"""What TensorFlow Serving's requests and answers hold: from JSON to arrays, and back.

Stands on numpy: imported with the first request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np

from ...errors import InvalidRequest
from ...models.classic.predictor import DTYPES, Array, Arrays, Description, TensorSpec
from .. import classic
from ..json_body import convert
from ..tensors import (
    BYTES_PER_VALUE,
    check_names,
    from_columns,
    from_rows,
    num_values,
    to_array,
    to_columns,
    to_rows,
)
from .protocol import TfExamplesRequest, TfPredictRequest

DEFAULT_SIGNATURE = "serving_default"
SIGNATURES = {
    "predict": (DEFAULT_SIGNATURE, "tensorflow/serving/predict"),
    "classify": (DEFAULT_SIGNATURE, "tensorflow/serving/classify"),
    "regress": (DEFAULT_SIGNATURE, "tensorflow/serving/regress"),
}
"""A model has one signature; the others are the methods' names, by which clients ask for a method's own."""


def read_body(description: Description, value: dict[str, object], verb: str) -> tuple[dict[str, Array], bool]:
    """The inputs in a request's JSON, and whether they came in rows.

    Args:
        description: What the model takes.
        value: The JSON.
        verb: "predict", "classify" or "regress".

    Raises:
        InvalidRequest: A value cannot be honoured; the message names it.
    """
    if verb == "predict":
        return _tensors(description, value)
    return _examples(description, convert(value, TfExamplesRequest, {}), verb), True


def write_body(outputs: Arrays, verb: str, *, in_rows: bool) -> bytes:
    """The answer's JSON.

    Raises:
        InvalidRequest: The model has no outputs of the verb's kind.
    """
    if verb == "classify":
        answer: dict[str, Any] = {"results": _classes(outputs)}
    elif verb == "regress":
        answer = {"results": _values(outputs)}
    else:
        answer = {"predictions": to_rows(outputs)} if in_rows else {"outputs": to_columns(outputs)}
    # Infinities and NaN stand as the documentation has them, though JSON has none.
    if all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind == "f"):
        return msgspec.json.encode(answer)
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()


def json_bytes(outputs: Arrays) -> int:
    """About how long the answer becomes."""
    return BYTES_PER_VALUE * num_values(outputs)


def _tensors(description: Description, value: dict[str, object]) -> tuple[dict[str, Array], bool]:
    body = convert(value, TfPredictRequest, {})
    _check_signature(body.signature_name, "predict")
    if (body.instances is msgspec.UNSET) == (body.inputs is msgspec.UNSET):
        raise InvalidRequest("give either instances, a list of examples, or inputs, whole tensors")
    if body.inputs is msgspec.UNSET:
        return from_rows(description, body.instances, "instances"), True
    return from_columns(description, body.inputs, "inputs"), False


def _examples(description: Description, body: TfExamplesRequest, verb: str) -> dict[str, Array]:
    """The inputs of a classify or regress request: a feature is a value or a flat list of values."""
    _check_signature(body.signature_name, verb)
    if any(spec.shape[:1] != (-1,) for spec in description.inputs):
        raise InvalidRequest(f"the model takes no list of examples; ask it with :predict, not :{verb}")
    shared = body.context or {}
    columns: dict[str, list[Array]] = {spec.name: [] for spec in description.inputs}
    for place, example in enumerate(body.examples):
        where = f"examples[{place}]"
        if twice := sorted(shared.keys() & example.keys()):
            raise InvalidRequest(f"{where} has the features {twice[:8]} of context, too", param=where)
        values = check_names(description.inputs, shared | example, where)
        for spec in description.inputs:
            columns[spec.name].append(_feature(spec, values[spec.name], f"{where}.{spec.name}"))
    return {spec.name: _stack(spec, columns[spec.name]) for spec in description.inputs}


def _feature(spec: TensorSpec, value: object, where: str) -> Array:
    """One example's feature, in the shape of the model's rows."""
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    flat = to_array(TensorSpec(spec.name, spec.datatype, (-1,)), values, where)
    shape = spec.shape[1:]
    try:
        return flat.reshape(shape)
    except ValueError:
        raise InvalidRequest(
            f"{where} has {flat.size} values, which do not fill the shape {list(shape)}", param=where
        ) from None


def _stack(spec: TensorSpec, rows: Sequence[Array]) -> Array:
    if not rows:
        return np.empty((0, *(max(0, size) for size in spec.shape[1:])), DTYPES[spec.datatype])
    if len({row.shape for row in rows}) > 1:
        raise InvalidRequest(f"the examples have features {spec.name} of several sizes", param="examples")
    return np.stack(rows)


def _classes(outputs: Arrays) -> list[list[tuple[str, float]]]:
    """Per example its (label, score) pairs.

    As in a classification signature, the labels are an output `classes` and the scores one called `scores`;
    or the scores are the only output of floats that has a row of them for each example. A model without
    labels has empty ones.
    """
    scores = outputs.get("scores")
    if scores is None:
        candidates = [array for array in outputs.values() if array.ndim == 2 and array.dtype.kind == "f"]
        scores = candidates[0] if len(candidates) == 1 else None
    if scores is None or scores.ndim != 2:
        raise InvalidRequest(
            "the model cannot classify: it has no output of scores, one row for each example"
        )
    labels = outputs.get("classes")
    if labels is None or labels.shape != scores.shape or labels.dtype.kind != "O":
        return [[("", score) for score in row] for row in scores.tolist()]
    return [
        [(label.decode(errors="replace"), score) for label, score in zip(*row, strict=True)]
        for row in zip(labels.tolist(), scores.tolist(), strict=True)
    ]


def _values(outputs: Arrays) -> list[float]:
    """Per example its number: the only output of numbers, which has one for each example."""
    arrays = [
        array.reshape(-1)
        for array in outputs.values()
        if array.dtype.kind in "fiu" and array.ndim and array.size == array.shape[0]
    ]
    if len(arrays) != 1:
        raise InvalidRequest(
            f"the model cannot regress: {len(arrays)} of its outputs are one number for each example"
        )
    return arrays[0].tolist()


def _check_signature(name: str | None, verb: str) -> None:
    if name not in (None, "", *SIGNATURES[verb]):
        raise InvalidRequest(
            f"there is no signature {classic.shown(name or '')}, only {DEFAULT_SIGNATURE}",
            param="signature_name",
        )
