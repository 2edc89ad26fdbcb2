"""OpenVINO's intermediate representation, on its CPU plugin."""

from __future__ import annotations

import importlib
import math
import sys
import xml.parsers.expat
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...errors import EngineError, InvalidRequest, ModelError
from .predictor import (
    Array,
    Arrays,
    Description,
    LoadOptions,
    Predictor,
    TensorSpec,
    as_bytes,
    as_outputs,
    texts_of,
)

VERSIONS = ("10", "11")

DATATYPES = {
    "boolean": "BOOL",
    **{f"i{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    "string": "BYTES",
}


class OpenVINOPredictor(Predictor):
    """The model's inputs and outputs, under their names.

    Its rows are batched if the first dimension of every input and output is free.
    """

    def __init__(self, model: Any, compiled: Any) -> None:
        inputs = tuple(_spec(port) for port in compiled.inputs)
        outputs = tuple(_spec(port) for port in compiled.outputs)
        names = [spec.name for spec in (*inputs, *outputs)]
        if not inputs or not outputs:
            raise ModelError("the model has no inputs or no outputs")
        for kind in (inputs, outputs):
            if len({spec.name for spec in kind}) != len(kind):
                raise ModelError(f"two tensors of the model have the same name: {names}")
        batched = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
        self._description = Description(inputs, outputs, batched)
        self._model: Any = model
        self._request: Any = compiled.create_infer_request()

    @classmethod
    def files(cls, path: Path) -> tuple[Path, ...]:
        """The .xml, and its .bin if it is there: a model without constants has none."""
        weights = path.with_suffix(".bin")
        return (path, weights) if weights.exists() else (path,)

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a .xml file with the .bin beside it; see `Predictor.load`."""
        # When it is imported, it reports that to its makers, unless the package that does so is absent.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        openvino: Any = importlib.import_module("openvino")
        weights = path.with_suffix(".bin")
        _check_document(path, weights.stat().st_size if weights.is_file() else 0)
        core = openvino.Core()
        try:
            model = core.read_model(*map(str, cls.files(path)))
            settings = {
                "INFERENCE_NUM_THREADS": options.num_threads,
                "NUM_STREAMS": 1,
                # By default it may compute float32 in bfloat16 where the CPU has it.
                "EXECUTION_MODE_HINT": "ACCURACY",
            }
            return cls(model, core.compile_model(model, "CPU", settings))
        except ModelError:
            raise
        except Exception as error:
            # Its bindings raise RuntimeError for nearly everything, and others for the rest.
            first = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"{path} is no OpenVINO model: {first[-1]}") from error

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Runs the model."""
        feed = [
            _as_text(inputs[spec.name], spec.name) if spec.datatype == "BYTES" else inputs[spec.name]
            for spec in self._description.inputs
        ]
        try:
            results = self._request.infer(dict(enumerate(feed)))
        except RuntimeError as error:
            raise EngineError(f"the model failed: {str(error).strip().splitlines()[-1]}") from error
        specs = self._description.outputs
        arrays = [results[number] for number in range(len(specs))]
        return as_outputs(specs, [as_bytes(array) for array in arrays])

    def describe(self) -> Description:
        """As in the model."""
        return self._description

    def unload(self) -> None:
        """Frees the model."""
        self._request = self._model = None


def _spec(port: Any) -> TensorSpec:
    # A port may have several names, in no order, or none.
    name = min(port.get_names(), default=port.get_node().get_friendly_name())
    kind = port.get_element_type().get_type_name()
    if kind not in DATATYPES:
        raise ModelError(f"{name} is of type {kind}, which cannot be served")
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise ModelError(f"{name} has no fixed number of dimensions, which cannot be served")
    return TensorSpec(
        name, DATATYPES[kind], tuple(-1 if size.is_dynamic else size.get_length() for size in shape)
    )


def _as_text(array: Array, name: str) -> Array:
    texts = texts_of(array, name)
    if any(text.endswith("\0") for text in texts):
        raise InvalidRequest(f"input {name} has a text that ends in NUL, which is lost here", param=name)
    return np.array(texts, dtype=str).reshape(array.shape)


def _check_document(path: Path, num_weights: int) -> None:
    """Refuses what is no model, or has constants beyond its weights, before OpenVINO reads it.

    The document is read as a stream, and with no types of its own: entities that grow are declared there.

    Raises:
        ModelError: So; or it is no XML.
    """

    layer: str | None = None

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal layer
        # OpenVINO would try the readers of its other formats on a document of another kind.
        if layer is None and (tag != "net" or attributes.get("version") not in VERSIONS):
            raise ModelError(f"{path} is no OpenVINO model of version {' or '.join(VERSIONS)}")
        if tag != "data" or layer != "Const":
            layer = attributes.get("type", "") if tag == "layer" else layer or ""
            return
        try:
            offset, size = int(attributes["offset"]), int(attributes["size"])
            sizes = [int(item) for item in attributes.get("shape", "").split(",") if item.strip()]
        except (KeyError, ValueError) as error:
            raise ModelError(f"{path} has a constant without a place in its weights: {attributes}") from error
        if min(offset, size, *sizes, 0) < 0 or offset + size > num_weights:
            raise ModelError(
                f"{path} has a constant of {size} bytes at {offset}; its weights have {num_weights} bytes"
            )
        if attributes.get("element_type") != "string" and math.prod(sizes) > 8 * size:
            raise ModelError(f"{path} has a constant of shape {sizes} in {size} bytes")

    def refuse(*_: object) -> None:
        raise ModelError(f"{path} declares a document type; OpenVINO models do not")

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = start
    parser.StartDoctypeDeclHandler = refuse
    try:
        with path.open("rb") as file:
            parser.ParseFile(file)
    except xml.parsers.expat.ExpatError as error:
        raise ModelError(f"{path} is no OpenVINO model: {error}") from error
