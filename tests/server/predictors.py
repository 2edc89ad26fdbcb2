"""Predictors for the tests of dialects: every kind of tensor, and raw bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from quire.models.classic.predictor import Array, Arrays, Description, LoadOptions, Predictor, TensorSpec


class Own(Predictor):
    """What the others have in common."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Own:
        return cls()

    def describe(self) -> Description:
        return Description(self.inputs, self.outputs)

    def unload(self) -> None:
        pass


class Mixed(Own):
    """A string, a vector of any length, a matrix of whole numbers and a flag: gives them back."""

    inputs = (
        TensorSpec("tag", "BYTES", (-1,)),
        TensorSpec("signal", "FP32", (-1, -1)),
        TensorSpec("sensor", "INT8", (-1, 2, 2)),
        TensorSpec("flag", "BOOL", (-1,)),
    )
    outputs = (
        TensorSpec("tag", "BYTES", (-1,)),
        TensorSpec("tag_bytes", "BYTES", (-1,)),
        TensorSpec("signal", "FP32", (-1, -1)),
        TensorSpec("sensor", "INT8", (-1, 2, 2)),
        TensorSpec("flag", "BOOL", (-1,)),
    )

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        return {**inputs, "tag_bytes": inputs["tag"]}


class Length(Own):
    """How many bytes an image has, and which is its first."""

    inputs = (TensorSpec("image", "BYTES", (-1,)),)
    outputs = (TensorSpec("classes", "BYTES", (-1, 2)), TensorSpec("scores", "FP32", (-1, 2)))

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        images = inputs["image"].tolist()
        labels = np.empty((len(images), 2), dtype=object)
        labels[:] = [[b"length", b"first"] for _ in images]
        return {
            "classes": labels,
            "scores": np.array([[len(image), image[:1][0] if image else -1] for image in images], np.float32),
        }
