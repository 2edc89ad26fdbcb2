"""scikit-learn estimators: skops files, and pickles that the owner trusts by digest."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np

from ...errors import ModelError, UntrustedModel
from .digests import check_trusted
from .predictor import (
    Array,
    Arrays,
    Description,
    LoadOptions,
    Predictor,
    TensorSpec,
    as_bytes,
    as_outputs,
    check_features,
    datatype,
    single_input,
)

MAX_UNPACKED = 100
"""A skops file is a zip; one that claims to unpack to more than this many times its size is a bomb."""

MIN_UNPACKED_BYTES = 64 << 20


class SklearnPredictor(Predictor):
    """Input `input` FP64 [rows, features]; output `predict`, or of a transformer `transform`.

    A classifier with `predict_proba` has the output `predict_proba` FP64 [rows, classes] too.
    """

    def __init__(self, estimator: Any) -> None:
        self._estimator: Any = estimator
        features = getattr(estimator, "n_features_in_", None)
        if not isinstance(features, int):
            raise ModelError(f"{type(estimator).__name__} has not been fitted: it has no n_features_in_")
        names = ("predict", "predict_proba") if hasattr(estimator, "predict") else ("transform",)
        self._methods = [name for name in names if hasattr(estimator, name)]
        if not self._methods:
            raise ModelError(f"{type(estimator).__name__} has neither predict nor transform")
        # Dtypes and shapes depend on the labels and the estimator; one row of zeros shows them.
        outputs = [np.asarray(output) for output in self._call(np.zeros((1, features)))]
        self._description = Description(
            (TensorSpec("input", "FP64", (-1, features)),),
            tuple(
                TensorSpec(name, datatype(output.dtype), (-1, *output.shape[1:]))
                for name, output in zip(self._methods, outputs, strict=True)
            ),
        )

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a .skops file, or a trusted .pkl, .pickle or .joblib; see `Predictor.load`."""
        if path.suffix.lower() == ".skops":
            estimator = _load_skops(path)
        else:
            check_trusted(path, options, "a pickle")
            estimator = _load_pickle(path)
        check_features(path, getattr(estimator, "n_features_in_", 1))
        try:
            return cls(estimator)
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} holds an estimator that cannot predict: {error}") from error

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """What the estimator's methods give."""
        return as_outputs(
            self._description.outputs, [as_bytes(output) for output in self._call(single_input(inputs))]
        )

    def describe(self) -> Description:
        """One input, one or two outputs."""
        return self._description

    def unload(self) -> None:
        """Frees the estimator."""
        self._estimator = None

    def _call(self, rows: Array) -> list[Any]:
        with warnings.catch_warnings():
            # Fitted on named columns, it is given them in their order, without names.
            warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
            return [getattr(self._estimator, name)(rows) for name in self._methods]


def _load_skops(path: Path) -> Any:
    import skops.io

    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > max(MIN_UNPACKED_BYTES, MAX_UNPACKED * path.stat().st_size):
            raise ModelError(f"{path} claims to unpack to {unpacked} bytes, which is too much for its size")
        strangers = skops.io.get_untrusted_types(file=path)
        if strangers:
            raise UntrustedModel(f"{path} holds types that skops does not trust: {', '.join(strangers)}")
        return skops.io.load(path, trusted=[])
    except (ModelError, ImportError):
        raise
    except Exception as error:
        # skops walks a tree of JSON that may be wrong in any way, and raises as many kinds of errors.
        raise ModelError(f"{path} is no skops file: {type(error).__name__}: {error}") from error


def _load_pickle(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".joblib":
            import joblib

            return joblib.load(path)
        with path.open("rb") as file:
            return pickle.load(file)  # noqa: S301 (the owner trusts this very file)
    except ImportError:
        raise
    except Exception as error:
        raise ModelError(f"{path} cannot be unpickled: {type(error).__name__}: {error}") from error
