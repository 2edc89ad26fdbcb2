"""Making integer weights in their canonical form (`LinearWeight`): rounding, and stacking parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...errors import ModelError
from ...kernels import ops, reference
from ...kernels.types import LinearWeight
from .options import Rounding

CHUNK_VALUES = 1 << 23
"""Values that are rounded at once: enough to keep all threads busy, and few to hold in fp32."""

INT4_ZERO = 8

Rows = Callable[[int, int], Tensor]
"""`rows(start, stop)` is that range of a dense matrix's rows."""


def rows_per_chunk(columns: int) -> int:
    """How many rows of a matrix are worked on at once."""
    return max(1, CHUNK_VALUES // columns)


def quantize(rows: Rows, num_rows: int, columns: int, rounding: Rounding) -> LinearWeight:
    """Rounds a dense matrix, some rows at a time, so that it need never be in memory as a whole.

    Args:
        rows: Gives the matrix, in any float dtype.
        num_rows: N.
        columns: K.
        rounding: The format.
    """
    group_size = rounding.group_size or columns
    parts: list[Tensor] = []
    whole: LinearWeight | None = None
    step = rows_per_chunk(columns)
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        dense = rows(start, stop)
        if dense.dtype not in (torch.float32, torch.bfloat16):
            dense = dense.float()
        part = ops.quantize_weight(dense, rounding.format, group_size)
        if whole is None:
            whole = part
            parts = [_tall(tensor, num_rows) for tensor in _row_tensors(part)]
        for target, source in zip(parts, _row_tensors(part), strict=True):
            target[start:stop] = source
    if whole is None:
        raise ModelError(f"a matrix of {num_rows} x {columns} has no rows to round")
    data, scales = parts
    return LinearWeight(rounding.format, num_rows, columns, data, scales, None, whole.group_size)


def _tall(tensor: Tensor, num_rows: int) -> Tensor:
    return tensor.new_empty((num_rows, *tensor.shape[1:]))


def _row_tensors(weight: LinearWeight) -> list[Tensor]:
    return [tensor for tensor in (weight.data, weight.scales) if tensor is not None]


def can_stack(parts: Sequence[LinearWeight]) -> bool:
    """Whether integer matrices of one input have the same format and groups."""
    first = parts[0]
    return all(
        part.format == first.format and part.group_size == first.group_size and part.scales is not None
        for part in parts
    )


def stack(parts: Sequence[LinearWeight], names: Sequence[str]) -> LinearWeight:
    """Stacks integer matrices of one format by rows into one.

    Scales of several dtypes become fp32, in which all of them are exact. Where some parts have zero
    points, those of the others are written out.

    Args:
        parts: The matrices.
        names: What the checkpoint calls them.

    Raises:
        ModelError: Their columns are in different orders.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for part, name in zip(parts[1:], names[1:], strict=True):
        if (first.order is None) != (part.order is None) or (
            first.order is not None and part.order is not None and not first.order.equal(part.order)
        ):
            raise ModelError(
                f"{names[0]} and {name} run as one matrix, but their activation orders (g_idx) differ, "
                "which is not supported."
            )
    scales = [part.scales for part in parts if part.scales is not None]
    dtypes = {tensor.dtype for tensor in scales}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    zeros: Tensor | None = None
    if any(part.zeros is not None for part in parts):
        zeros = torch.cat([zero_points(part) for part in parts])
    return LinearWeight(
        first.format,
        sum(part.out_features for part in parts),
        first.in_features,
        torch.cat([part.data for part in parts]),
        torch.cat([tensor.to(dtype) for tensor in scales]),
        zeros,
        first.group_size,
        first.order,
    )


def zero_points(weight: LinearWeight) -> Tensor:
    """The zero point of each group, int16 in the shape of the scales, symmetric forms included."""
    if weight.zeros is not None:
        return weight.zeros
    if weight.scales is None:
        raise ValueError("a float weight has no zero points")
    value = INT4_ZERO if weight.format == "int4" else 0
    return torch.full(weight.scales.shape, value, dtype=torch.int16, device=weight.data.device)


def without_trivial_zeros(zeros: Tensor | None, middle: int) -> Tensor | None:
    """Zero points as kernels read them, or None if all are the middle of the range: that is faster."""
    if zeros is None or bool((zeros == middle).all()):
        return None
    return zeros.contiguous()


def dense_rows(weight: LinearWeight) -> Rows:
    """The values of an integer matrix, computed some rows at a time."""

    def rows(start: int, stop: int) -> Tensor:
        def part(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[start:stop]

        return reference.dequantize(
            LinearWeight(
                weight.format,
                stop - start,
                weight.in_features,
                weight.data[start:stop],
                part(weight.scales),
                part(weight.zeros),
                weight.group_size,
                weight.order,
            )
        )

    return rows
