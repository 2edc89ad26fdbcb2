"""What a classic model is to quire: four methods over named numpy arrays.

Loading runs in a process of its own (`engine/classic_process.py`), so that a file which crashes its
library takes nothing else with it. What runs code when it is loaded is refused unless the server's owner
trusts it and has pinned its digest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import EngineError, InvalidRequest, ModelError

Array = NDArray[Any]
Arrays = Mapping[str, Array]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype("O"),
}
"""The datatypes of the Open Inference Protocol and their numpy dtypes; BYTES arrays hold `bytes`."""

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype(dtype: np.dtype[Any]) -> str:
    """The datatype's name for a numpy dtype; raises ModelError if there is none."""
    name = _DTYPE_NAMES.get(dtype.newbyteorder("<")) or ("BYTES" if dtype.kind in "SU" else None)
    if name is None:
        raise ModelError(f"tensors of {dtype} cannot be served; it is none of {', '.join(DTYPES)}")
    return name


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output.

    Attributes:
        name: Its name.
        datatype: A key of `DTYPES`.
        shape: Its sizes, -1 for those that differ from request to request; the batch dimension included.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.datatype not in DTYPES:
            raise ModelError(
                f"the datatype of {self.name} is {self.datatype!r}; it must be one of {', '.join(DTYPES)}"
            )
        if any(size < -1 for size in self.shape):
            raise ModelError(f"the shape of {self.name} is {list(self.shape)}; sizes are at least -1")


@dataclass(frozen=True, slots=True)
class Description:
    """A model's inputs and outputs.

    Attributes:
        inputs: All are needed.
        outputs: Those that `predict` gives.
        batched: Every tensor's first dimension is the batch, and rows do not depend on each other.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool = True

    def _accepts(self, inputs: Arrays) -> bool:
        """Whether `check` has nothing to say; it is asked for every request."""
        if len(inputs) != len(self.inputs):
            return False
        for spec in self.inputs:
            array = inputs.get(spec.name)
            if array is None or array.dtype != DTYPES[spec.datatype] or array.ndim != len(spec.shape):
                return False
            for wanted, size in zip(spec.shape, array.shape, strict=True):
                if wanted not in (-1, size):
                    return False
        return True

    def check(self, inputs: Arrays) -> None:
        """Raises InvalidRequest, naming what is at fault, unless a request's inputs are as described."""
        if self._accepts(inputs):
            return
        expected = {spec.name: spec for spec in self.inputs}
        if missing := expected.keys() - inputs.keys():
            raise InvalidRequest(f"the inputs {sorted(missing)} are missing", param="inputs")
        if unknown := inputs.keys() - expected.keys():
            raise InvalidRequest(
                f"the model has no inputs {sorted(unknown)}; it takes {sorted(expected)}", param="inputs"
            )
        for name, array in inputs.items():
            spec = expected[name]
            if array.dtype != DTYPES[spec.datatype]:
                raise InvalidRequest(f"input {name} is {array.dtype}, not {spec.datatype}", param="inputs")
            if array.ndim != len(spec.shape) or any(
                wanted not in (-1, size) for wanted, size in zip(spec.shape, array.shape, strict=True)
            ):
                raise InvalidRequest(
                    f"input {name} has shape {list(array.shape)}, not {list(spec.shape)}", param="inputs"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What the server's owner says about a model.

    Attributes:
        trust: Formats that run code when they are loaded may be, if `sha256` is the model's.
        sha256: The model's digest, in hexadecimal, as `digests.py` defines it for files and folders;
            checked whenever it is given.
        num_threads: Threads of one instance.
        python_class: For runtime "python": `module:Class`, a `Predictor` that is installed or on
            PYTHONPATH.
        inputs: The inputs, for formats that do not describe them; for others some of them, which must be
            as the model has them.
        outputs: The outputs, likewise.
        adapt_tensors: The inputs and outputs are other names and datatypes for the model's own, and what
            comes and goes is converted; see `declared`.
        parameters: For runtimes that take some, as `runtimes.py` says: values that JSON has.
    """

    trust: bool = False
    sha256: str | None = None
    num_threads: int = 1
    python_class: str | None = None
    inputs: Sequence[TensorSpec] = ()
    outputs: Sequence[TensorSpec] = ()
    adapt_tensors: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, not {self.num_threads}")


class Predictor(ABC):
    """A loaded model."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, options: LoadOptions) -> Predictor:
        """Loads the model.

        Raises:
            UntrustedModel: It would run code, and is not trusted.
            ModelError: It cannot be loaded.
        """

    @classmethod
    def files(cls, path: Path) -> tuple[Path, ...]:
        """What the model is made of, for its digest: `path`, and the files that it is loaded with.

        Raises:
            ModelError: What lies at `path` does not say.
        """
        return (path,)

    @abstractmethod
    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Computes the outputs, as described, for inputs that are as described."""

    @abstractmethod
    def describe(self) -> Description:
        """The inputs and outputs."""

    @abstractmethod
    def unload(self) -> None:
        """Gives back what the model holds; nothing is called after it."""


MAX_FEATURES = 1 << 22
"""Columns of a table at most: a file of a few bytes can claim any number of them."""


def check_features(path: Path, features: int) -> None:
    """Raises ModelError if a model of tables claims no columns, or more than any has."""
    if not 1 <= features <= MAX_FEATURES:
        raise ModelError(f"{path} claims {features} features; it may have from 1 to {MAX_FEATURES}")


def single_input(inputs: Arrays) -> Array:
    """The array of a model with one input."""
    (array,) = inputs.values()
    return array


def as_outputs(specs: Sequence[TensorSpec], arrays: Sequence[Any]) -> dict[str, Array]:
    """Outputs by name, in the dtypes that the specs say.

    Raises:
        EngineError: The model gave another number of outputs.
    """
    if len(specs) != len(arrays):
        raise EngineError(f"the model gave {len(arrays)} outputs, not {len(specs)}")
    return {
        spec.name: np.ascontiguousarray(array, dtype=DTYPES[spec.datatype])
        for spec, array in zip(specs, arrays, strict=True)
    }


def texts_of(array: Array, name: str) -> list[str]:
    """The elements of a BYTES array, for runtimes whose texts are no bytes.

    Raises:
        InvalidRequest: One is not UTF-8.
    """
    try:
        return [item.decode() for item in array.ravel()]
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"input {name} has a text that is not UTF-8: {error}", param=name) from error


def as_bytes(output: Any) -> Array:
    """An output of texts as a BYTES array, which holds `bytes`; other outputs as they are."""
    array = np.asarray(output)
    if array.dtype.kind not in "USO":
        return array
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [item if isinstance(item, bytes) else str(item).encode() for item in array.ravel().tolist()]
    return encoded.reshape(array.shape)
