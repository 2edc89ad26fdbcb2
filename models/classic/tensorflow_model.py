"""TensorFlow SavedModels, on the CPU.

They need the owner's trust and a digest of the folder: a graph may have operations that read and write
files, and a SavedModel is a program as much as it is weights.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any, Self

from ...errors import EngineError, ModelError
from .digests import check_trusted
from .predictor import Arrays, Description, LoadOptions, Predictor, TensorSpec, as_bytes, as_outputs

DATATYPES = {
    "bool": "BOOL",
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    "half": "FP16",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
PARAMETERS = ("signature", "tags")
DEFAULT_SIGNATURE = "serving_default"


class TensorFlowPredictor(Predictor):
    """The inputs and outputs of one signature, under the names that the signature gives them.

    `LoadOptions.parameters` may have `signature` ("serving_default"), and `tags`, a list of texts that
    choose the graph where a SavedModel has several. Rows are batched if the first dimension of every input
    and output is free.
    """

    def __init__(self, loaded: Any, function: Any) -> None:
        _, inputs = function.structured_input_signature
        self._description = _description(inputs, function.structured_outputs)
        self._loaded: Any = loaded  # the signature does not keep its variables alive
        self._function: Any = function

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a trusted folder; see `Predictor.load`."""
        signature, tags = _parameters(options)
        check_trusted(path, options, "a TensorFlow SavedModel")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # it greets on stderr
        tensorflow: Any = importlib.import_module("tensorflow")
        threading = tensorflow.config.threading
        threading.set_intra_op_parallelism_threads(options.num_threads)
        threading.set_inter_op_parallelism_threads(1)
        tensorflow.config.set_visible_devices([], "GPU")
        try:
            loaded = tensorflow.saved_model.load(str(path), tags=tags)
        except Exception as error:
            # Parsers, graphs, kernels: any kind of error may come.
            raise ModelError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
        if signature not in loaded.signatures:
            raise ModelError(
                f"{path} has no signature {signature!r}, only {sorted(loaded.signatures)}; "
                "the parameter signature chooses one"
            )
        return cls(loaded, loaded.signatures[signature])

    def predict(self, inputs: Arrays) -> dict[str, Any]:
        """Calls the signature."""
        tensorflow: Any = importlib.import_module("tensorflow")
        try:
            results = self._function(**{name: tensorflow.constant(array) for name, array in inputs.items()})
        except tensorflow.errors.OpError as error:
            raise EngineError(f"the model failed: {error.message}") from error
        specs = self._description.outputs
        return as_outputs(specs, [as_bytes(results[spec.name].numpy()) for spec in specs])

    def describe(self) -> Description:
        """As the signature says."""
        return self._description

    def unload(self) -> None:
        """Frees the model."""
        self._loaded = self._function = None


def _description(inputs: dict[str, Any], outputs: dict[str, Any]) -> Description:
    taken = tuple(_spec(name, spec) for name, spec in sorted(inputs.items()))
    given = tuple(_spec(name, spec) for name, spec in sorted(outputs.items()))
    return Description(taken, given, all(spec.shape[:1] == (-1,) for spec in (*taken, *given)))


def _spec(name: str, spec: Any) -> TensorSpec:
    kind = getattr(getattr(spec, "dtype", None), "name", type(spec).__name__)
    if kind not in DATATYPES:
        raise ModelError(f"{name} is of type {kind}, which cannot be served")
    if spec.shape.rank is None:
        raise ModelError(f"{name} has no fixed number of dimensions, which cannot be served")
    return TensorSpec(name, DATATYPES[kind], tuple(-1 if size is None else size for size in spec.shape))


def _parameters(options: LoadOptions) -> tuple[str, list[str] | None]:
    """The signature and the tags; raises ModelError naming one that is wrong."""
    given = options.parameters
    if strangers := sorted(given.keys() - set(PARAMETERS)):
        raise ModelError(f"there are no parameters {strangers}, only {', '.join(PARAMETERS)}")
    signature, tags = given.get("signature", DEFAULT_SIGNATURE), given.get("tags")
    if not isinstance(signature, str):
        raise ModelError(f"the parameter signature must be a text, not {signature!r}")
    if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)):
        raise ModelError(f"the parameter tags must be a list of texts, not {tags!r}")
    return signature, tags
