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
    check_features,
    single_input,
)

COUNTS = (
    *(b"num_class", b"num_tree_per_iteration", b"max_feature_idx", b"num_leaves", b"num_cat"),
    b"tree_sizes",
)
"""Lines whose numbers, or their sum, are at most the file's size in bytes."""


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

        _check_counts(path)
        try:
            booster = lightgbm.Booster(model_file=str(path))
        except Exception as error:
            # Its errors, and those of decoding and parsing what it says of the file.
            raise ModelError(f"{path} is no LightGBM model: {error}") from error
        check_features(path, booster.num_feature())
        if booster.num_trees() < 1:
            raise ModelError(f"{path} is no LightGBM model: it has no trees")
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


def _check_counts(path: Path) -> None:
    """Refuses a file that claims more than it can hold: LightGBM believes it, and crashes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for line in file:
            name, _, value = line.partition(b"=")
            if name not in COUNTS:
                continue
            try:
                claimed = sum(map(int, value.split()))
            except ValueError as error:
                raise ModelError(f"{path} is no LightGBM model: {error}") from error
            if not 0 <= claimed <= size:
                raise ModelError(
                    f"{path} is no LightGBM model: its {name.decode()} is {claimed}, and it has {size} bytes"
                )
