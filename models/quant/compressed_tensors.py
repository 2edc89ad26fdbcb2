"""The "pack-quantized" format of compressed-tensors, in 4 or 8 bits.

    weight_packed      int32 [N, K * bits / 32]       neighbouring columns in a word, the first lowest
    weight_scale       float [N, groups]
    weight_shape       int   [2]                      N and K
    weight_zero_point  int32 [N * bits / 32, groups]  asymmetric schemes: neighbouring rows in a word
    weight_g_idx       int   [K]                      actorder "group": the group of each column

Integers are signed, and stored with half of their range added; so are zero points.
`W[n, k] = (q[n, k] - zero[n, g]) * weight_scale[n, g]`, where g is `weight_g_idx[k]` or `k / group`.
The last words of a row, or of a column of zero points, may be filled in part.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import ModelError
from ...kernels.types import LinearWeight
from .activation_order import read_order, sort_columns
from .bits import as_words, canonical_data, unpack_rows, words
from .canonical import INT4_ZERO, without_trivial_zeros
from .config import QuantScheme
from .layout import INTEGERS, SCALES, TensorSpec

INDICES = ("I32", "I64")


def expected(name: str, scheme: QuantScheme, rows: int, columns: int) -> dict[str, TensorSpec]:
    """The tensors of a matrix `[rows, columns]`; see `layout`."""
    groups = -(-columns // (scheme.group_size or columns))
    specs = {
        "weight_packed": TensorSpec((rows, words(columns, scheme.bits)), INTEGERS),
        "weight_scale": TensorSpec((rows, groups), SCALES),
        "weight_shape": TensorSpec((2,), INDICES, required=False),
        "weight_g_idx": TensorSpec((columns,), INDICES, required=scheme.activation_order),
    }
    if not scheme.symmetric:
        specs["weight_zero_point"] = TensorSpec((words(rows, scheme.bits), groups), INTEGERS)
    return specs


def convert(
    name: str, scheme: QuantScheme, rows: int, columns: int, tensors: Mapping[str, Tensor]
) -> LinearWeight:
    """The canonical form; see `layout`."""
    bits, group_size = scheme.bits, scheme.group_size or columns
    shape = tensors.get("weight_shape")
    if shape is not None and shape.tolist() != [rows, columns]:
        raise ModelError(f"{name}.weight_shape is {shape.tolist()}; config.json asks for {[rows, columns]}.")
    g_idx = tensors.get("weight_g_idx")
    if g_idx is not None and (g_idx == -1).all():  # how older versions say that there is no order
        g_idx = None
    order = read_order(g_idx, columns, group_size, f"{name}.weight_g_idx")
    packed = as_words(tensors["weight_packed"])
    data = (
        canonical_data(packed, bits, columns)
        if order is None
        else sort_columns(packed.t(), bits, columns, order)
    )
    zeros: Tensor | None = None
    if "weight_zero_point" in tensors:
        zeros = unpack_rows(as_words(tensors["weight_zero_point"]).t(), bits, rows).t().short()
        if bits == 8:
            zeros = zeros - 128
    return LinearWeight(
        "int4" if bits == 4 else "int8",
        rows,
        columns,
        data,
        tensors["weight_scale"].clone(),
        without_trivial_zeros(zeros, INT4_ZERO if bits == 4 else 0),
        group_size,
        order,
    )
