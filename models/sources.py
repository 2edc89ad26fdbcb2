"""Where a model's values come from: a checkpoint's tensors, or noise for measuring."""

from __future__ import annotations

import re
import zlib
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.types import LinearWeight
from .config import ModelConfig
from .matching import DENSE, Sources
from .quant.canonical import Rows, quantize
from .quant.layout import layout_of
from .quant.options import Rounding
from .safetensors_reader import TensorReader

NOISE_SPREAD = 0.02
"""Standard deviation of noise."""

NORM = re.compile(r"norm\d*\.weight$")


class WeightSource(Protocol):
    """Gives the values of a model's norms, biases and matrices, by the checkpoint's names."""

    def vector(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A norm or a bias, in any float dtype; not to be kept."""
        ...

    def integers(self, module: str, rows: int, columns: int) -> LinearWeight | None:
        """A matrix that is stored as integers, in canonical form; None if it is a float matrix."""
        ...

    def rows(self, module: str, rows: int, columns: int) -> Rows:
        """A float matrix; what the function returns is not to be kept."""
        ...


class StoredWeights:
    """A checkpoint's tensors, which have been matched with the model."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._reader = TensorReader()

    def vector(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._reader.read(self._sources.vectors[name])

    def integers(self, module: str, rows: int, columns: int) -> LinearWeight | None:
        source = self._sources.modules[module]
        if source.scheme is None:
            return None
        tensors = {suffix: self._reader.read(tensor) for suffix, tensor in source.tensors.items()}
        return layout_of(source.scheme).convert(module, source.scheme, rows, columns, tensors)

    def rows(self, module: str, rows: int, columns: int) -> Rows:
        tensor = self._sources.modules[module].tensors[DENSE]
        return lambda start, stop: self._reader.rows(tensor, start, stop)


class Noise:
    """Seeded uniform noise for matrices and biases, ones for norms."""

    def __init__(self, config: ModelConfig, seed: int, device: torch.device) -> None:
        self._config = config
        self._seed = seed
        self._device = device

    def vector(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if NORM.search(name.lower()):
            return torch.ones(shape, device=self._device)
        return self._noise(name, shape)

    def integers(self, module: str, rows: int, columns: int) -> LinearWeight | None:
        scheme = self._config.scheme_of(module)
        if scheme is None:
            return None
        rounding = Rounding("int4" if scheme.bits == 4 else "int8", scheme.group_size)
        return quantize(self.rows(module, rows, columns), rows, columns, rounding)

    def rows(self, module: str, rows: int, columns: int) -> Rows:
        return lambda start, stop: self._noise(f"{module}.{start}", (stop - start, columns))

    def _noise(self, name: str, shape: tuple[int, ...]) -> Tensor:
        # A generator per name, so that the order does not matter.
        generator = torch.Generator(self._device).manual_seed(self._seed + zlib.crc32(name.encode()))
        spread = NOISE_SPREAD * 3**0.5
        noise = torch.empty(shape, device=self._device)
        return noise.uniform_(-spread, spread, generator=generator)
