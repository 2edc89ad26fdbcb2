"""`g_idx`: which group each column of a matrix belongs to, where columns are grouped by importance.

GPTQ (Frantar et al., 2022) rounds the columns that matter most first (desc_act), and groups them in that
order. The canonical form has contiguous groups, so columns are sorted by their group; `order` says where
each came from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ModelError
from .bits import WORD_BITS


def read_order(g_idx: Tensor | None, columns: int, group_size: int, source: str) -> Tensor | None:
    """The order of columns that makes groups contiguous, int32 `[K]`; None if they are already.

    Args:
        g_idx: The group of each column, or None where there is no such tensor.
        columns: K.
        group_size: Columns of a group; the last may have fewer.
        source: What messages call the tensor.

    Raises:
        ModelError: A group is out of range, or has more columns than `group_size`, or fewer.
    """
    if g_idx is None:
        return None
    groups = -(-columns // group_size)
    g_idx = g_idx.to(torch.int64)
    low, high = int(g_idx.min()), int(g_idx.max())
    if low < 0 or high >= groups:
        wrong = low if low < 0 else high
        raise ModelError(f"{source} names group {wrong}; {columns} columns have {groups} groups.")
    expected = torch.arange(columns) // group_size
    if g_idx.equal(expected):
        return None
    order = g_idx.argsort(stable=True)
    if not g_idx[order].equal(expected):
        sizes = g_idx.bincount(minlength=groups)
        group = int((sizes != expected.bincount()).nonzero()[0])
        raise ModelError(
            f"{source} has {int(sizes[group])} columns in group {group}; groups of {group_size} are expected."
        )
    return order.to(torch.int32)


def sort_columns(packed: Tensor, bits: int, columns: int, order: Tensor) -> Tensor:
    """`LinearWeight.data` from words that hold neighbouring columns, its columns in another order.

    Args:
        packed: int32 `[words, N]`: transposed, so that what is sorted are contiguous rows.
        bits: 4 or 8.
        columns: K.
        order: Column k of the result is column `order[k]`.
    """
    mask, shifts = (1 << bits) - 1, range(0, WORD_BITS, bits)
    values = torch.stack([(packed >> shift & mask).to(torch.uint8) for shift in shifts], 1).flatten(0, 1)
    values = values[:columns].index_select(0, order.long())
    if bits == 8:
        return (values ^ 128).t().contiguous().view(torch.int8)
    if columns % 2:
        values = torch.nn.functional.pad(values, (0, 0, 0, 1))
    return (values[::2] | values[1::2] << 4).t().contiguous()
