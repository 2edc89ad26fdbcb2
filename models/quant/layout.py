"""What the layouts of integer weights have in common: the tensors that they announce for a matrix.

A layout is a module of this package with two functions:

    expected(name, scheme, rows, columns) -> dict[str, TensorSpec]
        the tensors that store a matrix `[rows, columns]`, by the last part of their names
    convert(name, scheme, rows, columns, tensors) -> LinearWeight
        the canonical form, from those tensors, whose shapes and dtypes have been checked

Names, shapes and dtypes are compared with the file's header before anything is read.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from torch import Tensor

from ...kernels.types import LinearWeight
from .config import LAYOUTS, QuantScheme

INTEGERS = ("I32", "U32")
SCALES = ("F16", "BF16", "F32")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a stored tensor must be.

    Attributes:
        shape: Its shape.
        dtypes: The dtypes that it may have, as safetensors names them.
        required: Whether it must be there.
    """

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]
    required: bool = True


class Layout(Protocol):
    """A module that knows one layout; see above."""

    def expected(self, name: str, scheme: QuantScheme, rows: int, columns: int) -> dict[str, TensorSpec]:
        """The tensors of a matrix. Raises `ModelError` if the layout cannot store one of this shape."""
        ...

    def convert(
        self, name: str, scheme: QuantScheme, rows: int, columns: int, tensors: Mapping[str, Tensor]
    ) -> LinearWeight:
        """The matrix in its canonical form. Raises `ModelError` naming a tensor whose values are wrong."""
        ...


def layout_of(scheme: QuantScheme) -> Layout:
    """The module that reads a scheme's layout."""
    return cast(Layout, importlib.import_module(f".{LAYOUTS[scheme.method]}", __package__))
