"""XGBoost models, as JSON or UBJSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from ...errors import ModelError
from .predictor import (
    Array,
    Arrays,
    Description,
    LoadOptions,
    Predictor,
    TensorSpec,
    as_outputs,
    check_features,
    single_input,
)
from .ubjson import check_lengths


class XGBoostPredictor(Predictor):
    """Input `input` FP32 [rows, features], NaN where missing; output `output` FP32, as the objective."""

    def __init__(self, booster: Any) -> None:
        self._booster: Any = booster
        features = booster.num_features()
        # What a prediction looks like depends on the objective; one row of zeros shows it.
        shape = self._output(np.zeros((1, features), np.float32)).shape
        self._description = Description(
            (TensorSpec("input", "FP32", (-1, features)),),
            (TensorSpec("output", "FP32", (-1, *shape[1:])),),
        )

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a .json or .ubj file; see `Predictor.load`."""
        import xgboost

        try:
            if path.suffix.lower() == ".ubj":
                check_lengths(path.read_bytes())
            booster = xgboost.Booster({"nthread": options.num_threads})
            booster.load_model(str(path))
            check_features(path, booster.num_features())
            booster.set_param({"nthread": options.num_threads})
            return cls(booster)
        except (xgboost.core.XGBoostError, ValueError) as error:
            first = str(error).strip().splitlines()[0]
            raise ModelError(f"{path} is no XGBoost model: {first}") from error

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """What `Booster.inplace_predict` gives."""
        return as_outputs(self._description.outputs, [self._output(single_input(inputs))])

    def describe(self) -> Description:
        """One input, one output."""
        return self._description

    def unload(self) -> None:
        """Frees the booster."""
        self._booster = None

    def _output(self, rows: Array) -> Array:
        return self._booster.inplace_predict(rows, validate_features=False)
