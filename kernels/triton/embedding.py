"""Rows of an embedding matrix, by token id.

Rows of a float matrix are copied by torch: its gather is bound by memory already, and a Triton kernel could
not do better. Integer rows are dequantised by a kernel as they are read, W = (q - zero) * scale, so that an
embedding that is tied to an int8 or int4 output matrix needs no second copy of the matrix.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import LinearWeight
from .support import CompileCase, next_power_of_2

BLOCK = 1024
"""Columns of a program, 8 for each thread: the eight nibbles of a 32-bit word, or 8 bytes."""


@triton.jit
def embedding_kernel(
    ids_ptr,
    data_ptr,
    scales_ptr,
    zeros_ptr,
    order_ptr,
    y_ptr,
    size,
    row_bytes,
    num_groups,
    group_size,
    HAS_ZEROS: tl.constexpr,
    HAS_ORDER: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A piece of one row; columns of a group share a scale."""
    place = tl.program_id(0).to(tl.int64)
    row = tl.load(ids_ptr + place)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    if BITS == 4:
        packed = tl.load(data_ptr + row * row_bytes + columns // 2, mask=inside, other=0).to(tl.int32)
        q = (packed >> (columns % 2) * 4) & 15
    else:
        q = tl.load(data_ptr + row * row_bytes + columns, mask=inside, other=0).to(tl.int32)
    group = row * num_groups + columns // group_size
    scale = tl.load(scales_ptr + group, mask=inside, other=0.0).to(tl.float32)
    if HAS_ZEROS:
        q -= tl.load(zeros_ptr + group, mask=inside, other=0).to(tl.int32)
    elif BITS == 4:
        q -= 8
    target = columns
    if HAS_ORDER:
        target = tl.load(order_ptr + columns, mask=inside, other=0)
    y = (q.to(tl.float32) * scale).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + place * size + target, y, mask=inside)


def embedding(ids: Tensor, weight: LinearWeight, dtype: torch.dtype) -> Tensor:
    """See `reference.embedding`."""
    if not weight.data.numel() and weight.packed is not None:  # only the form of the linear kernel is there
        return weight.packed.rows_as(ids, dtype)
    if weight.scales is None:
        return weight.data.index_select(0, ids).to(dtype)
    y = weight.data.new_empty(ids.shape[0], weight.in_features, dtype=dtype)
    if y.numel():
        zeros, order = weight.zeros, weight.order
        block = min(BLOCK, next_power_of_2(weight.in_features))
        embedding_kernel[(y.shape[0], triton.cdiv(weight.in_features, block))](
            ids.contiguous(),
            weight.data,
            weight.scales,
            weight.scales if zeros is None else zeros,
            ids if order is None else order,
            y,
            weight.in_features,
            weight.data.stride(0),
            weight.scales.shape[1],
            weight.group_size,
            HAS_ZEROS=zeros is not None,
            HAS_ORDER=order is not None,
            BITS=4 if weight.format == "int4" else 8,
            BLOCK=block,
            num_warps=num_warps(block),
        )
    return y


def num_warps(block: int) -> int:
    """Warps of a program: 8 values and more for each thread."""
    return max(1, block // 256)


def compile_cases() -> Iterator[CompileCase]:
    """Both widths: as quire rounds them, and as a GPTQ checkpoint with an activation order has them."""
    for bits in (4, 8):
        for has_zeros, has_order in ((False, False), (True, True)):
            yield CompileCase(
                f"int{bits}{' with zeros and order' if has_zeros else ''}",
                embedding_kernel,
                {
                    "ids_ptr": "*i64",
                    "data_ptr": "*u8" if bits == 4 else "*i8",
                    "scales_ptr": "*fp16",
                    "zeros_ptr": "*i16" if has_zeros else "*fp16",
                    "order_ptr": "*i32" if has_order else "*i64",
                    "y_ptr": "*bf16",
                    "size": "i32",
                    "row_bytes": "i32",
                    "num_groups": "i32",
                    "group_size": "i32",
                },
                {"HAS_ZEROS": has_zeros, "HAS_ORDER": has_order, "BITS": bits, "BLOCK": BLOCK},
                num_warps=num_warps(BLOCK),
                aligned=("ids_ptr", "data_ptr", "scales_ptr", "zeros_ptr", "order_ptr", "y_ptr", "size"),
            )
