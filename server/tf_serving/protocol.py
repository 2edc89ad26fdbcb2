"""TensorFlow Serving's messages, as its REST API's documentation writes them."""

from __future__ import annotations

from typing import Any

import msgspec

from ..errors import ErrorDetails


class TfPredictRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Input tensors: `instances`, a list of examples, or `inputs`, whole tensors; one of the two."""

    signature_name: str | None = None
    instances: Any = msgspec.UNSET
    inputs: Any = msgspec.UNSET


class TfPredictResponse(msgspec.Struct, omit_defaults=True):
    """`predictions` for `instances`, `outputs` for `inputs`."""

    predictions: Any = msgspec.UNSET
    outputs: Any = msgspec.UNSET


class TfExamplesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Examples to classify or to regress: objects of features; those of `context` are all examples'."""

    examples: list[dict[str, Any]]
    signature_name: str | None = None
    context: dict[str, Any] | None = None


class TfResults(msgspec.Struct):
    """Per example a list of [label, score], or a number."""

    results: list[Any]


class TfStatusDetails(msgspec.Struct):
    """Why a version is in its state."""

    error_code: str
    error_message: str


class TfVersionStatus(msgspec.Struct):
    """One version: START, LOADING, AVAILABLE, UNLOADING or END."""

    version: str
    state: str
    status: TfStatusDetails


class TfModelStatus(msgspec.Struct):
    """The versions of a model."""

    model_version_status: list[TfVersionStatus]


class TfModelSpec(msgspec.Struct):
    """Which model it is."""

    name: str
    signature_name: str
    version: str


class TfMetadata(msgspec.Struct):
    """A model's inputs and outputs, as a `SignatureDef`."""

    model_spec: TfModelSpec
    metadata: dict[str, Any]


class TfFailure(msgspec.Struct):
    """The body of every answer that is not a success."""

    error: str


def write_failure(status: int, details: ErrorDetails) -> bytes:
    """An error in TensorFlow Serving's form."""
    return msgspec.json.encode(TfFailure(details.message))
