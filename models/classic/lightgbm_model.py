"""LightGBM models, in its text format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from ...errors import ModelError
from .predictor import (
    Array,
    Arrays,
    Description,
    LoadOptions,
    Predictor,
    TensorSpec,
    as_outputs,
    single_input,
)


class LightGBMPredictor(Predictor):
    """Input `input` FP64 [rows, features]; output `output` FP64 [rows], or [rows, classes]."""

    def __init__(self, booster: Any, num_threads: int) -> None:
        self._booster: Any = booster
        self._num_threads = num_threads
        classes = booster.num_model_per_iteration()
        self._description = Description(
            (TensorSpec("input", "FP64", (-1, booster.num_feature())),),
            (TensorSpec("output", "FP64", (-1, classes) if classes > 1 else (-1,)),),
        )

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a text file; see `Predictor.load`."""
        import lightgbm

        try:
            booster = lightgbm.Booster(model_file=str(path))
        except lightgbm.basic.LightGBMError as error:
            raise ModelError(f"{path} is no LightGBM model: {error}") from error
        if booster.num_feature() < 1 or booster.num_trees() < 1:
            raise ModelError(f"{path} is no LightGBM model: it has no features or no trees")
        return cls(booster, options.num_threads)

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """What `Booster.predict` gives."""
        output = self._booster.predict(single_input(inputs), num_threads=self._num_threads)
        return as_outputs(self._description.outputs, [output])

    def describe(self) -> Description:
        """One input, one output."""
        return self._description

    def unload(self) -> None:
        """Frees the booster."""
        self._booster = None
