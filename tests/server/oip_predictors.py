"""Classic models for tests of the protocols that ask them, as a server's owner writes such."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from quire.models.classic.predictor import DTYPES, Arrays, Description, LoadOptions, Predictor, TensorSpec

KINDS = tuple(DTYPES)


class Kinds(Predictor):
    """Gives back an input of every datatype, `in_FP32` as `out_FP32`."""

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Kinds:
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return {f"out_{kind}": inputs[f"in_{kind}"] for kind in KINDS}

    def describe(self) -> Description:
        return Description(
            tuple(TensorSpec(f"in_{kind}", kind, (-1, 2)) for kind in KINDS),
            tuple(TensorSpec(f"out_{kind}", kind, (-1, 2)) for kind in KINDS),
        )

    def unload(self) -> None:
        pass


class Sum(Predictor):
    """The sums of rows of any length; a negative first number sleeps so many seconds, 500 raises."""

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Sum:
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        x = inputs["x"]
        if x.size and x[0, 0] < 0:
            time.sleep(-float(x[0, 0]))
        if (x == 500).any():
            raise ValueError("500 is not allowed")
        return {"sum": x.sum(axis=1, dtype=np.float32), "scores": x}

    def describe(self) -> Description:
        outputs = TensorSpec("sum", "FP32", (-1,)), TensorSpec("scores", "FP32", (-1, -1))
        return Description((TensorSpec("x", "FP32", (-1, -1)),), outputs)

    def unload(self) -> None:
        pass


class Length(Predictor):
    """The length of a text, which has no batch dimension."""

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Length:
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, np.ndarray]:
        (text,) = inputs["text"].tolist()
        return {"length": np.array([len(text)], np.int32), "text": np.array([text], object)}

    def describe(self) -> Description:
        outputs = TensorSpec("length", "INT32", (1,)), TensorSpec("text", "BYTES", (1,))
        return Description((TensorSpec("text", "BYTES", (1,)),), outputs, batched=False)

    def unload(self) -> None:
        pass
