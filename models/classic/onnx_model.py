"""ONNX models on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...errors import ModelError, UntrustedModel
from .predictor import Array, Arrays, Description, LoadOptions, Predictor, TensorSpec, as_bytes, texts_of

DATATYPES = {
    "tensor(bool)": "BOOL",
    **{f"tensor(int{bits})": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"tensor(uint{bits})": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


class OnnxPredictor(Predictor):
    """The graph's inputs and outputs, under their names.

    Its rows are batched if the first dimension of every input and output is free.
    """

    def __init__(self, session: Any) -> None:
        self._session: Any = session
        inputs = tuple(_spec(value) for value in session.get_inputs())
        outputs = tuple(_spec(value) for value in session.get_outputs())
        batched = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
        self._description = Description(inputs, outputs, batched)
        self._names = [spec.name for spec in outputs]
        self._texts = [spec.name for spec in inputs if spec.datatype == "BYTES"]

    @classmethod
    def files(cls, path: Path) -> tuple[Path, ...]:
        """The .onnx file, and those of its external data."""
        return (path, *_external_data(path))

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a .onnx file, with external data beside it; see `Predictor.load`."""
        import onnxruntime

        _external_data(path)
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = options.num_threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                str(path), session_options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:
            # Its errors share no base but Exception, and one of them is RuntimeError.
            raise ModelError(f"{path} is no ONNX model: {error}") from error
        return cls(session)

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Runs the graph."""
        feed = dict(inputs)
        for name in self._texts:
            texts = texts_of(feed[name], name)
            feed[name] = np.array(texts, dtype=object).reshape(feed[name].shape)
        outputs = self._session.run(self._names, feed)
        return {name: as_bytes(array) for name, array in zip(self._names, outputs, strict=True)}

    def describe(self) -> Description:
        """As in the graph."""
        return self._description

    def unload(self) -> None:
        """Frees the session."""
        self._session = None


def _spec(value: Any) -> TensorSpec:
    if value.type not in DATATYPES:
        raise ModelError(f"{value.name} is a {value.type}, which cannot be served")
    # Free sizes are names or None.
    return TensorSpec(
        value.name,
        DATATYPES[value.type],
        tuple(size if isinstance(size, int) else -1 for size in value.shape or ()),
    )


def _external_data(path: Path) -> list[Path]:
    """The files of a model's external data; refuses those outside its folder, and what is no plain file."""
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:
        raise ModelError(f"{path} is no ONNX model: {error}") from error
    folder = path.parent.resolve()
    files: set[Path] = set()
    for message in _messages(model):
        if not isinstance(message, onnx.TensorProto):
            continue
        for entry in message.external_data:
            if entry.key != "location":
                continue
            place = (folder / entry.value).resolve()
            if not place.is_relative_to(folder):
                raise UntrustedModel(
                    f"{path} has external data at {entry.value!r}, which is outside its folder"
                )
            if not place.is_file():
                raise ModelError(f"{path} has external data at {entry.value!r}, which is no file")
            files.add(path.parent / place.relative_to(folder))
    return sorted(files)


def _messages(root: Any) -> Iterator[Any]:
    """A protobuf message and all that it holds, wherever a tensor may hide; deep nesting is no recursion."""
    pending = [root]
    while pending:
        message = pending.pop()
        yield message
        for descriptor, value in message.ListFields():
            if descriptor.message_type is not None:
                pending += [value] if hasattr(value, "ListFields") else list(value)
