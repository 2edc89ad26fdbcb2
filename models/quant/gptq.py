"""GPTQ (Frantar et al., 2022) as AutoGPTQ and GPTQModel store it, in 4 or 8 bits.

    qweight  int32 [K * bits / 32, N]       neighbouring columns of W in a word, the first in its low bits
    qzeros   int32 [groups, N * bits / 32]  neighbouring output channels in a word
    scales   float [groups, N]
    g_idx    int32 [K]                      the group of each column; may be absent

`W[n, k] = (qweight[k, n] - zero[g_idx[k], n]) * scales[g_idx[k], n]`, all unsigned. The first format
("gptq") stores zero points less one, "gptq_v2" as they are. The one was subtracted from whole words, so
that a zero point of 0 borrows from its neighbour; adding it to whole words restores both.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ...errors import ModelError
from ...kernels.types import LinearWeight
from .activation_order import read_order, sort_columns
from .bits import WORD_BITS, as_words, canonical_data, unpack_rows
from .canonical import INT4_ZERO, without_trivial_zeros
from .config import QuantScheme
from .layout import INTEGERS, SCALES, TensorSpec

ONES = {4: 0x11111111, 8: 0x01010101}
"""A word in which every integer is 1."""


def expected(name: str, scheme: QuantScheme, rows: int, columns: int) -> dict[str, TensorSpec]:
    """The tensors of a matrix `[rows, columns]`; see `layout`."""
    per_word = WORD_BITS // scheme.bits
    if rows % per_word or columns % per_word:
        raise ModelError(
            f"{name} is {rows} x {columns}, which GPTQ cannot store in {scheme.bits} bits: rows and columns "
            f"must be multiples of {per_word}."
        )
    groups = -(-columns // (scheme.group_size or columns))
    return {
        "qweight": TensorSpec((columns // per_word, rows), INTEGERS),
        "qzeros": TensorSpec((groups, rows // per_word), INTEGERS, required=not scheme.symmetric),
        "scales": TensorSpec((groups, rows), SCALES),
        # Without desc_act, some writers leave it out.
        "g_idx": TensorSpec((columns,), ("I32", "I64"), required=scheme.activation_order),
    }


def convert(
    name: str, scheme: QuantScheme, rows: int, columns: int, tensors: Mapping[str, Tensor]
) -> LinearWeight:
    """The canonical form; see `layout`."""
    bits, group_size = scheme.bits, scheme.group_size or columns
    order = read_order(tensors.get("g_idx"), columns, group_size, f"{name}.g_idx")
    packed = as_words(tensors["qweight"])
    data = (
        canonical_data(packed.t(), bits, columns)
        if order is None
        else sort_columns(packed, bits, columns, order)
    )
    zeros: Tensor | None = None
    if "qzeros" in tensors:
        words = as_words(tensors["qzeros"]) + ONES[bits] * scheme.zero_offset
        zeros = unpack_rows(words, bits, rows).t().short()
        if bits == 8:
            zeros = zeros - 128
    return LinearWeight(
        "int4" if bits == 4 else "int8",
        rows,
        columns,
        data,
        tensors["scales"].t().contiguous(),
        without_trivial_zeros(zeros, INT4_ZERO if bits == 4 else 0),
        group_size,
        order,
    )
