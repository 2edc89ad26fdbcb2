"""AWQ (Lin et al., 2023) in the GEMM layout of AutoAWQ.

    qweight  int32 [K, N / 8]         eight output channels in a word
    qzeros   int32 [groups, N / 8]    likewise; absent where the configuration has zero_point false
    scales   float [groups, N]

The nibbles of a word, from the lowest, are the channels 0, 2, 4, 6, 1, 3, 5, 7.
`W[n, k] = (qweight[k, n] - qzeros[k / group, n]) * scales[k / group, n]`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import ModelError
from ...kernels.types import LinearWeight
from .bits import as_words
from .canonical import INT4_ZERO, without_trivial_zeros
from .config import QuantScheme
from .layout import INTEGERS, SCALES, TensorSpec

CHANNELS = (0, 2, 4, 6, 1, 3, 5, 7)
"""The channel of each nibble of a word."""


def expected(name: str, scheme: QuantScheme, rows: int, columns: int) -> dict[str, TensorSpec]:
    """The tensors of a matrix `[rows, columns]`; see `layout`."""
    group_size = scheme.group_size or columns
    if rows % 8 or columns % group_size:
        raise ModelError(
            f"{name} is {rows} x {columns}, which AWQ cannot store in groups of {group_size}: rows must be a "
            "multiple of 8, columns of the group size."
        )
    groups = columns // group_size
    return {
        "qweight": TensorSpec((columns, rows // 8), INTEGERS),
        "qzeros": TensorSpec((groups, rows // 8), INTEGERS, required=not scheme.symmetric),
        "scales": TensorSpec((groups, rows), SCALES),
    }


def convert(
    name: str, scheme: QuantScheme, rows: int, columns: int, tensors: Mapping[str, Tensor]
) -> LinearWeight:
    """The canonical form; see `layout`."""
    # [K, N / 8] -> [N / 8, K]: each row of words then holds eight rows of the matrix.
    packed = as_words(tensors["qweight"]).t().contiguous()
    if columns % 2:
        packed = torch.nn.functional.pad(packed, (0, 1))
    even, odd = packed[:, ::2], packed[:, 1::2]
    data = torch.empty(rows // 8, 8, even.shape[1], dtype=torch.uint8)
    for nibble, channel in enumerate(CHANNELS):
        shift = 4 * nibble
        data[:, channel] = (even >> shift & 15) | (odd >> shift & 15) << 4
    zeros: Tensor | None = None
    if "qzeros" in tensors:
        words = as_words(tensors["qzeros"]).t()
        zeros = torch.empty(rows // 8, 8, words.shape[1], dtype=torch.int16)
        for nibble, channel in enumerate(CHANNELS):
            zeros[:, channel] = words >> 4 * nibble & 15
        zeros = zeros.flatten(0, 1)
    return LinearWeight(
        "int4",
        rows,
        columns,
        data.flatten(0, 1),
        tensors["scales"].t().contiguous(),
        without_trivial_zeros(zeros, INT4_ZERO),
        scheme.group_size or columns,
    )
