"""Words of 32 bits that hold several small integers, and tensors of those integers.

Everywhere here the first integer is in the lowest bits, as in all layouts but AWQ's.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 32


def words(count: int, bits: int) -> int:
    """How many words hold `count` integers."""
    return -(-count * bits // WORD_BITS)


def as_words(tensor: Tensor) -> Tensor:
    """The same bits as int32: some files say uint32."""
    return tensor if tensor.dtype == torch.int32 else tensor.view(torch.int32)


def unpack_rows(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Integers that were packed along rows: int32 `[R, words]` -> uint8 `[R, columns]`.

    Args:
        packed: The words.
        bits: 4 or 8.
        columns: Integers of a row; the last word may have room for more.
    """
    values = _bytes(packed)
    if bits == 4:
        values = torch.stack((values & 15, values >> 4), -1).flatten(1)
    return values[:, :columns]


def pack_rows(values: Tensor, bits: int) -> Tensor:
    """The inverse of `unpack_rows`: uint8 `[R, columns]` -> int32 `[R, words]`, filled with zeros."""
    per_word = WORD_BITS // bits
    values = torch.nn.functional.pad(values, (0, -values.shape[1] % per_word))
    packed = values[:, ::2] | values[:, 1::2] << 4 if bits == 4 else values
    # A copy, whatever the strides: those of a single row may be any, and still pass for contiguous.
    return packed.clone(memory_format=torch.contiguous_format).view(torch.int32)


def _bytes(packed: Tensor) -> Tensor:
    """A copy of words `[R, words]` as bytes `[R, 4 * words]`, whatever the strides of the words."""
    return packed.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def canonical_data(packed: Tensor, bits: int, columns: int) -> Tensor:
    """`LinearWeight.data` from words packed along rows, `[N, words]`: the same bytes, in the same order.

    Eight bits are unsigned in a word and signed in `data`; both differ by 128.
    """
    data = _bytes(packed)
    if bits == 4:
        return data[:, : -(-columns // 2)]
    return (data[:, :columns] ^ 128).view(torch.int8)
