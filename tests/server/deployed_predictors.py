"""Versions of a model as they go wrong, for the end-to-end test of deployments."""

from __future__ import annotations

import time
from pathlib import Path

from quire.models.classic.predictor import Array, Arrays, Description, LoadOptions, Predictor, TensorSpec


class Good(Predictor):
    """y = factor · x. Nothing that follows goes wrong at x = 0, with which workers warm up."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Good:
        return cls(options.parameters.get("factor", 2.0))

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        if inputs["x"].any():
            self.go_wrong()
        return {"y": inputs["x"] * self.factor}

    def go_wrong(self) -> None:
        time.sleep(0.002)

    def describe(self) -> Description:
        return Description((TensorSpec("x", "FP64", (-1,)),), (TensorSpec("y", "FP64", (-1,)),))

    def unload(self) -> None:
        pass


class Failing(Good):
    """Raises."""

    def go_wrong(self) -> None:
        raise ValueError("broken")


class Slow(Good):
    """Takes a hundred times as long."""

    def go_wrong(self) -> None:
        time.sleep(0.2)


class Hanging(Good):
    """Never answers."""

    def go_wrong(self) -> None:
        time.sleep(3600)
