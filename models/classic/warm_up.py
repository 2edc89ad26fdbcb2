"""Warm-up requests: what a worker computes before it counts as ready, so that no client pays for it.

Libraries compile, plan and allocate when they first see a shape, so the requests should have the shapes
that clients send. As in Triton's `model_warmup`, an input is zeros, random values, or data that is given.
"""

from __future__ import annotations

import math
import string
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import InvalidRequest, ModelError
from .predictor import DTYPES, Array, Description, TensorSpec

RANDOM_INTEGERS = 100
"""Random integers are below this: they are often indexes into something, such as an embedding."""

RANDOM_TEXT_LENGTH = 8

MAX_DESCRIBED_BYTES = 64 << 20
"""A row whose sizes nobody gave but the model's file is no larger: the file may claim anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupInput:
    """What one input is in a warm-up request. Raises ValueError if the settings exclude each other.

    Where the model has a batch dimension, this is one row; every row of the request is the same.

    Attributes:
        fill: "zeros" (empty texts), or "random": floats from [0, 1), integers from 0 to 99, letters.
        seed: Of random values.
        shape: The row's sizes; by default as described, with 1 for those that are free.
        values: The row itself, in nested lists that JSON has; texts for BYTES.
        file: The row itself, as raw bytes: little-endian, in C order; before each element of BYTES its
            length as uint32.
    """

    fill: Literal["zeros", "random"] = "zeros"
    seed: int = 0
    shape: tuple[int, ...] | None = None
    values: Any = None
    file: Path | None = None

    def __post_init__(self) -> None:
        if self.fill not in ("zeros", "random"):
            raise ValueError(f"the fill of a warm-up input must be zeros or random, not {self.fill!r}")
        if self.values is not None and self.file is not None:
            raise ValueError("a warm-up input has values or a file, not both")
        if self.values is not None and self.shape is not None:
            raise ValueError("the values of a warm-up input have a shape of their own; leave shape out")
        if self.shape is not None and any(size < 0 for size in self.shape):
            raise ValueError(f"the shape of a warm-up input must not be negative: {list(self.shape)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupRequest:
    """A request that each worker computes before it is ready, also when it is restarted.

    Raises ValueError naming the setting and its value if one is out of range.

    Attributes:
        name: For messages.
        inputs: By name.
        others: All inputs that `inputs` does not name.
        batch_size: Rows; 1 where the model has no batch dimension.
        count: How often it is computed; 0 leaves it out.
    """

    name: str = "warm-up"
    inputs: Mapping[str, WarmupInput] = field(default_factory=dict[str, WarmupInput])
    others: WarmupInput = field(default_factory=WarmupInput)
    batch_size: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"the batch_size of {self.name} must be at least 1, not {self.batch_size}")
        if self.count < 0:
            raise ValueError(f"the count of {self.name} must be at least 0, not {self.count}")

    def arrays(self, description: Description) -> dict[str, Array]:
        """The request's inputs for a model.

        Raises:
            ModelError: They do not fit the model; the message names the request and the input.
        """
        known = [spec.name for spec in description.inputs]
        if strangers := sorted(self.inputs.keys() - set(known)):
            raise ModelError(f"{self.name}: the model has no inputs {strangers}; it takes {known}")
        if self.batch_size > 1 and not description.batched:
            raise ModelError(f"{self.name}: the model has no batch dimension, so its batch_size must be 1")
        arrays: dict[str, Array] = {}
        for spec in description.inputs:
            sizes = spec.shape[1:] if description.batched else spec.shape
            try:
                row = _row(self.inputs.get(spec.name, self.others), spec, sizes)
            except (ValueError, TypeError, OverflowError, OSError, struct.error) as error:
                raise ModelError(f"{self.name}: input {spec.name}: {error}") from error
            arrays[spec.name] = np.repeat(row[None], self.batch_size, axis=0) if description.batched else row
        try:
            description.check(arrays)
        except InvalidRequest as error:
            raise ModelError(f"{self.name}: {error.message}") from error
        return arrays


def _row(given: WarmupInput, spec: TensorSpec, sizes: tuple[int, ...]) -> Array:
    """One row of an input whose sizes are described as `sizes`, -1 for the free ones."""
    dtype = DTYPES[spec.datatype]
    if given.values is not None:
        return _as_bytes(given.values) if spec.datatype == "BYTES" else _exactly(given.values, dtype)
    shape = given.shape if given.shape is not None else tuple(1 if size == -1 else size for size in sizes)
    if given.shape is None and (num_bytes := math.prod(shape) * dtype.itemsize) > MAX_DESCRIBED_BYTES:
        raise ValueError(f"a row takes {num_bytes} bytes; if that is meant, give its shape")
    if given.file is not None:
        return _from_file(given.file, spec, shape)
    if given.fill == "random":
        return _random(np.random.default_rng(given.seed), dtype, shape)
    return np.full(shape, b"" if spec.datatype == "BYTES" else 0, dtype)


def _exactly(values: Any, dtype: np.dtype[Any]) -> Array:
    """The values in a dtype; raises ValueError where integers would become others, or floats infinite."""
    array = np.array(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"its values are no array of numbers, but {array.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    fits = (
        np.array_equal(cast, array) if dtype.kind in "biu" else not np.any(np.isinf(cast) > np.isinf(array))
    )
    if not fits:
        raise ValueError(f"its values do not fit {dtype}")
    return cast


def _as_bytes(values: Any) -> Array:
    array = np.array(values, dtype=object)
    encoded = np.empty(array.size, dtype=object)
    for index, item in enumerate(array.ravel().tolist()):
        if not isinstance(item, str):
            raise ValueError(f"its values must be texts, not {item!r}")
        encoded[index] = item.encode()
    return encoded.reshape(array.shape)


def _from_file(path: Path, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    data, count, dtype = path.read_bytes(), math.prod(shape), DTYPES[spec.datatype]
    if spec.datatype != "BYTES":
        if len(data) != count * dtype.itemsize:
            raise ValueError(
                f"{path} has {len(data)} bytes; {spec.datatype} of shape {list(shape)} takes "
                f"{count * dtype.itemsize}"
            )
        return np.frombuffer(data, dtype).reshape(shape)
    array = np.empty(count, dtype=object)
    position = 0
    for index in range(count):
        (size,) = struct.unpack_from("<I", data, position)
        position += 4 + size
        array[index] = data[position - size : position]
    if position != len(data):
        raise ValueError(f"{path} has {len(data)} bytes; its {count} elements say {position}")
    return array.reshape(shape)


def _random(rng: np.random.Generator, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if dtype.kind == "f":
        return rng.random(shape).astype(dtype)
    if dtype.kind == "O":
        letters = rng.choice(list(string.ascii_lowercase), (math.prod(shape), RANDOM_TEXT_LENGTH))
        array = np.empty(len(letters), dtype=object)
        array[:] = ["".join(row).encode() for row in letters.tolist()]
        return array.reshape(shape)
    return rng.integers(0, 2 if dtype.kind == "b" else RANDOM_INTEGERS, shape).astype(dtype)
