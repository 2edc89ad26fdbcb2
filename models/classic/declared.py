"""Inputs and outputs under other names and datatypes than a model's own, as its server's owner declares them.

Clients of other servers know a LightGBM model's input as `input__0` of FP32, say: what they send and get is
converted, and the model computes as ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from ...errors import ModelError
from .predictor import DTYPES, Array, Arrays, Description, LoadOptions, Predictor, TensorSpec


def as_declared(predictor: Predictor, options: LoadOptions, path: Path) -> Predictor:
    """The model with its inputs and outputs as declared; as it is, if nothing is declared.

    Tensors are found by their names or, if none of the names is the model's, by their places.

    Raises:
        ModelError: The declared tensors are not the model's.
    """
    if not options.inputs and not options.outputs:
        return predictor
    own = predictor.describe()
    inputs = _pair("input", options.inputs or own.inputs, own.inputs, path)
    outputs = _pair("output", options.outputs or own.outputs, own.outputs, path, some=True)
    return Declared(predictor, inputs, outputs)


class Declared(Predictor):
    """A model behind the tensors that are declared for it.

    Args:
        predictor: The model.
        inputs, outputs: Pairs of a declared tensor and the model's own.
    """

    def __init__(
        self,
        predictor: Predictor,
        inputs: Sequence[tuple[TensorSpec, TensorSpec]],
        outputs: Sequence[tuple[TensorSpec, TensorSpec]],
    ) -> None:
        self._predictor = predictor
        self._inputs = inputs
        self._outputs = outputs
        self._description = Description(
            tuple(declared for declared, _ in inputs),
            tuple(declared for declared, _ in outputs),
            predictor.describe().batched,
        )

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Never called: it stands before a model that has been loaded."""
        raise NotImplementedError

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Asks the model in its own words."""
        given = {
            own.name: inputs[declared.name].astype(DTYPES[own.datatype], copy=False)
            for declared, own in self._inputs
        }
        answer = self._predictor.predict(given)
        return {declared.name: _shaped(answer[own.name], declared) for declared, own in self._outputs}

    def describe(self) -> Description:
        """As declared."""
        return self._description

    def unload(self) -> None:
        """Unloads the model."""
        self._predictor.unload()


def _shaped(array: Array, spec: TensorSpec) -> Array:
    """An output in the declared datatype, and with the ones among its sizes that are declared."""
    if array.ndim != len(spec.shape):
        array = array.reshape([len(array) if array.ndim else 1, *spec.shape[1:]])
    return np.ascontiguousarray(array, dtype=DTYPES[spec.datatype])


def _pair(
    what: str, declared: Sequence[TensorSpec], own: Sequence[TensorSpec], path: Path, *, some: bool = False
) -> list[tuple[TensorSpec, TensorSpec]]:
    by_name = {spec.name: spec for spec in own}
    names = [spec.name for spec in declared]
    if not set(names) & by_name.keys() and (len(names) == len(own) or (some and len(names) < len(own))):
        pairs = list(zip(declared, own, strict=False))
    elif set(names) <= by_name.keys() and (some or len(names) == len(own)):
        pairs = [(spec, by_name[spec.name]) for spec in declared]
    else:
        raise ModelError(f"{path} has the {what}s {list(by_name)}, not {names}")
    if len(set(names)) < len(names):
        raise ModelError(f"{path}: an {what} is declared twice")
    for spec, model in pairs:
        if (spec.datatype == "BYTES") != (model.datatype == "BYTES"):
            raise ModelError(f"{path}: {what} {spec.name} is {model.datatype}, not {spec.datatype}")
        if not _fits(spec.shape, model.shape, reshape=some):
            raise ModelError(
                f"{path}: {what} {spec.name} has the shape {list(model.shape)}, not {list(spec.shape)}"
            )
    return pairs


def _fits(declared: Sequence[int], own: Sequence[int], *, reshape: bool) -> bool:
    if reshape and len(declared) != len(own):
        # Only ones are added or left out.
        declared, own = ([size for size in shape if size != 1] for shape in (declared, own))
    return len(declared) == len(own) and all(
        -1 in (left, right) or left == right for left, right in zip(declared, own, strict=True)
    )
