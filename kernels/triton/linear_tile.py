"""The product of a tile of a weight with a tile of rows, for every format of weights.

    y[m, n] = sum over groups g of scale[n, g] * sum over k in g of (q[n, k] - zero[n, g]) * x[m, k]

It is computed as its transpose, y^T = W x^T: the weight is the left operand, which tensor cores take from
registers (wgmma on Hopper, mma on Ampere), where its values are made; so they never go through shared memory.
The integers `q - zero` are exact in every dtype of x. Sums of a group are fp32, or int32 where x is rounded
to int8, and scales enter in fp32, once per group, so nothing is rounded but the result.

Single rows take the tensor cores, too: to make an int4 value takes three instructions, and to multiply it in
fp32 takes one per row of x, which at eight rows would cost more time than reading the weight does.

The order in which a result is summed depends on the weight alone: blocks of columns one after the other,
within a split of K whose bounds follow from N and K; a second kernel adds the splits in their order. The
tile's width in x (`BLOCK_M`) decides how many rows are computed at once, and no row sees another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .linear_packed import PackedInteger
from .linear_plan import FLOAT_WIDTH, Tile, WeightForm, architecture, choose_tile, num_splits, scaled_planes
from .support import CompileCase

REDUCE_BLOCK = 512


@triton.jit
def weight_values(w, zero, PLANE_INDEX: tl.constexpr, BITS: tl.constexpr, dtype: tl.constexpr):
    """`q - zero` of a block of stored words, exactly, in the dtype of x; zero is int16.

    Conversions of integers to floats are slow on GPUs. An integer below 2^m, m being the bits of a mantissa,
    is put there instead under the exponent of 2^m, and the sum of 2^m and zero is subtracted.
    """
    if BITS == 0:
        values = w.to(dtype)
    elif BITS == 4:
        q = (w >> (4 * PLANE_INDEX)) & 15
        if dtype == tl.int8:
            values = (q - zero).to(tl.int8)
        elif dtype == tl.float16:
            values = (q | 0x6400).to(tl.float16, bitcast=True) - (zero + 1024).to(tl.float16)
        elif dtype == tl.bfloat16:
            values = (q | 0x4300).to(tl.bfloat16, bitcast=True) - (zero + 128).to(tl.bfloat16)
        else:
            wide = (q.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
            values = wide - (zero.to(tl.int32) + 8388608).to(tl.float32)
    elif dtype == tl.int8:
        values = w  # its zero point is subtracted from the product
    else:
        q = (w.to(tl.int16) & 255) ^ 128  # q + 128, which is not negative
        if dtype == tl.float16:
            values = (q | 0x6400).to(tl.float16, bitcast=True) - (zero + 1152).to(tl.float16)
        else:
            wide = (q.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True)
            values = (wide - (zero.to(tl.int32) + 8388736).to(tl.float32)).to(dtype)
    return values


@triton.jit
def tile_kernel(
    x_ptr,
    w_ptr,
    scales_ptr,
    zeros_ptr,
    x_scales_ptr,
    bias_ptr,
    y_ptr,
    num_rows,
    out_features,
    in_features,
    num_blocks,
    split_blocks,
    x_stride,
    w_row_stride,
    w_block_stride,
    y_stride,
    group_size,
    num_groups,
    BITS: tl.constexpr,
    INT8_X: tl.constexpr,
    HAS_ZEROS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ONE_GROUP: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    EVEN_N: tl.constexpr,
    EVEN_K: tl.constexpr,
    WIDTH: tl.constexpr,
    PLANES: tl.constexpr,
    SCALED_PLANES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    NUM_STAGES: tl.constexpr,
):
    """`BLOCK_N` output channels of `BLOCK_M` rows of x, over one split of K.

    A block of the stored weight has `PLANES` times `WIDTH` columns; each `SCALED_PLANES` of them share a
    scale. With `IS_SPLIT`, y is `[splits, rows, N]`, summed by `reduce_kernel`.
    """
    first_n = tl.program_id(0) * BLOCK_N
    first_m = (tl.program_id(1) * BLOCK_M).to(tl.int64)
    n, m = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)
    columns = tl.arange(0, WIDTH)
    # Channels that are not there repeat the last one; they are not stored.
    row = n if EVEN_N else tl.minimum(n, out_features - 1 - first_n)
    has_m = m < num_rows - first_m
    w_tile = w_ptr + first_n.to(tl.int64) * w_row_stride
    w_offsets = row[:, None] * w_row_stride + columns[None, :]
    x_tile = x_ptr + first_m * x_stride
    x_offsets = m[None, :] * x_stride + columns[:, None]

    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    partial = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.int32 if INT8_X else tl.float32)
    zero = tl.full((BLOCK_N, 1), 8 if BITS == 4 else 0, dtype=tl.int16)
    scale = tl.full((BLOCK_N, 1), 1.0, dtype=tl.float32)
    begin = tl.program_id(2) * split_blocks
    end = tl.minimum(begin + split_blocks, num_blocks)
    block_stride = w_block_stride.to(tl.int64)
    for block in tl.range(begin, end, num_stages=NUM_STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        w_block = w_tile + block * block_stride
        if BITS == 0 and not EVEN_K:
            w = tl.load(w_block + w_offsets, mask=(columns < in_features - block * WIDTH)[None, :], other=0.0)
        else:
            w = tl.load(w_block + w_offsets)
        for plane in tl.static_range(PLANES):  # pyright: ignore[reportGeneralTypeIssues]
            first_k = (block * PLANES + plane) * WIDTH
            if EVEN_K:
                x = tl.load(x_tile + first_k + x_offsets, mask=has_m[None, :], other=0)
            else:
                inside = has_m[None, :] & (columns < in_features - first_k)[:, None]
                x = tl.load(x_tile + first_k + x_offsets, mask=inside, other=0)
            if plane % SCALED_PLANES == 0:
                # Columns past K, whose x is 0, are in the last group.
                group = 0 if ONE_GROUP else tl.minimum(first_k // group_size, num_groups - 1)
                entries = group * out_features + first_n + row
                if HAS_ZEROS:
                    zero = tl.load(zeros_ptr + entries).to(tl.int16)[:, None]
                if not ONE_GROUP:
                    scale = tl.load(scales_ptr + entries).to(tl.float32)[:, None]
            values = weight_values(w, zero, plane, BITS, x.dtype)
            partial = tl.dot(values, x, partial, input_precision="ieee", out_dtype=partial.dtype)
            if INT8_X and BITS == 8 and HAS_ZEROS:
                # `q - zero` may exceed an int8.
                partial -= zero.to(tl.int32) * tl.sum(x.to(tl.int32), 0)[None, :]
            if not ONE_GROUP and plane % SCALED_PLANES == SCALED_PLANES - 1:
                acc += partial.to(tl.float32) * scale
                partial = tl.zeros((BLOCK_N, BLOCK_M), dtype=partial.dtype)

    has = (n < out_features - first_n)[:, None] & has_m[None, :]
    y_offsets = m[None, :] * y_stride + n[:, None]
    y_tile = y_ptr + first_m * y_stride + first_n
    if IS_SPLIT:
        y_tile += tl.program_id(2).to(tl.int64) * num_rows * y_stride
        tl.store(y_tile + y_offsets, partial if ONE_GROUP else acc, mask=has)
    else:
        if ONE_GROUP:
            acc = partial.to(tl.float32)
            if BITS != 0:
                acc *= tl.load(scales_ptr + first_n + row).to(tl.float32)[:, None]
        if INT8_X:
            acc *= tl.load(x_scales_ptr + first_m + m, mask=has_m, other=0.0)[None, :]
        if HAS_BIAS:
            acc += tl.load(bias_ptr + first_n + row).to(tl.float32)[:, None]
        tl.store(y_tile + y_offsets, acc.to(y_ptr.dtype.element_ty), mask=has)


@triton.jit
def reduce_kernel(
    partial_ptr,
    scales_ptr,
    x_scales_ptr,
    bias_ptr,
    y_ptr,
    num_rows,
    out_features,
    y_stride,
    HAS_SCALE: tl.constexpr,
    INT8_X: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Adds the splits of a piece of one row, in their order."""
    m = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = n < out_features
    total = tl.load(partial_ptr + m * out_features + n, mask=inside, other=0)
    for split in tl.static_range(1, SPLITS):  # pyright: ignore[reportGeneralTypeIssues]
        total += tl.load(partial_ptr + (m + split * num_rows) * out_features + n, mask=inside, other=0)
    y = total.to(tl.float32)
    if HAS_SCALE:
        y *= tl.load(scales_ptr + n, mask=inside, other=0.0).to(tl.float32)
    if INT8_X:
        y *= tl.load(x_scales_ptr + m)
    if HAS_BIAS:
        y += tl.load(bias_ptr + n, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + m * y_stride + n, y.to(y_ptr.dtype.element_ty), mask=inside)


def multiply(
    x: Tensor,
    x_scales: Tensor | None,
    weight: PackedInteger | Tensor,
    bias: Tensor | None,
    y: Tensor,
    is_invariant: bool,
) -> None:
    """Computes `y = x @ W.T + bias`.

    Args:
        x: `[M, K]` with neighbours in a row side by side, M at least 1; int8 with `x_scales`, else float, of
            the dtype of a float weight.
        x_scales: fp32 `[M]`, or None.
        weight: An integer weight, or a float one `[N, K]`. An integer weight's order is not looked at.
        bias: `[N]` or None.
        y: `[M, N]`, neighbours in a row side by side; of any float dtype.
        is_invariant: Whether the tile must not depend on M.
    """
    num_rows, k = x.shape
    n = y.shape[1]
    tile = choose_tile(num_rows, x.dtype, isinstance(weight, Tensor), is_invariant, architecture())
    form = WeightForm.of(weight)
    blocks = -(-k // (form.width * form.planes))
    splits = num_splits(n, k)
    split_blocks = -(-blocks // splits)
    splits = -(-blocks // split_blocks)
    is_split = splits > 1
    target = y
    if is_split:
        kind = torch.int32 if x_scales is not None and form.one_group else torch.float32
        target = torch.empty(splits, num_rows, n, dtype=kind, device=x.device)
    tile_kernel[(triton.cdiv(n, tile.block_n), triton.cdiv(num_rows, tile.block_m), splits)](
        x,
        form.data,
        x if form.scales is None else form.scales,
        x if form.zeros is None else form.zeros,
        x if x_scales is None else x_scales,
        x if bias is None else bias,
        target,
        num_rows,
        n,
        k,
        blocks,
        split_blocks,
        x.stride(0),
        *form.strides,
        n if is_split else y.stride(0),
        form.group_size,
        form.num_groups,
        BITS=form.bits,
        INT8_X=x_scales is not None,
        HAS_ZEROS=form.zeros is not None,
        HAS_BIAS=bias is not None and not is_split,
        ONE_GROUP=form.one_group,
        IS_SPLIT=is_split,
        EVEN_N=n % tile.block_n == 0,
        EVEN_K=k % (form.width * form.planes) == 0,
        WIDTH=form.width,
        PLANES=form.planes,
        SCALED_PLANES=form.scaled_planes,
        BLOCK_N=tile.block_n,
        BLOCK_M=tile.block_m,
        NUM_STAGES=tile.num_stages,
        num_warps=tile.num_warps,
    )
    if is_split:
        reduce_kernel[(num_rows, triton.cdiv(n, REDUCE_BLOCK))](
            target,
            target if form.scales is None else form.scales,
            target if x_scales is None else x_scales,
            target if bias is None else bias,
            y,
            num_rows,
            n,
            y.stride(0),
            HAS_SCALE=form.scales is not None and form.one_group,
            INT8_X=x_scales is not None,
            HAS_BIAS=bias is not None,
            SPLITS=splits,
            BLOCK=REDUCE_BLOCK,
            num_warps=4,
        )


def compile_cases() -> Iterator[CompileCase]:
    """Layers of Qwen3-0.6B and Llama-3.1-8B: their sizes are multiples of all tiles.

    AWQ and GPTQ have groups of 128 with and without zero points, quire's own rounding groups of 32.
    """
    bf16, int8 = torch.bfloat16, torch.int8
    for rows in (1, 32, 64, 128):
        yield _case(rows, bf16, 4, 128, is_split=True)
        yield _case(rows, bf16, 4, 128, has_zeros=True)
        yield _case(rows, bf16, 4, 32)
    yield _case(1, torch.float16, 4, 128, has_zeros=True)
    yield _case(64, torch.float32, 4, 128)
    for rows in (1, 128):
        yield _case(rows, bf16, 8, 0)
        yield _case(rows, int8, 8, 0, is_split=rows == 1)
        yield _case(rows, int8, 4, 32)
    yield _case(64, bf16, 0, 0)
    for kind, pointer in (("fp32", "*fp32"), ("int32", "*i32")):
        pointers = {"partial_ptr": pointer, "scales_ptr": "*fp16", "x_scales_ptr": "*fp32"}
        pointers |= {"bias_ptr": "*bf16", "y_ptr": "*bf16"}
        sizes = ("num_rows", "out_features", "y_stride")
        yield CompileCase(
            f"{kind} splits added",
            reduce_kernel,
            pointers | dict.fromkeys(sizes, "i32"),
            {
                "HAS_SCALE": kind == "int32",
                "INT8_X": kind == "int32",
                "HAS_BIAS": True,
                "SPLITS": 5,
                "BLOCK": REDUCE_BLOCK,
            },
            aligned=(*pointers, "out_features", "y_stride"),
        )


_POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int8: "*i8"}


def _case(
    rows: int,
    x_dtype: torch.dtype,
    bits: int,
    group_size: int,
    *,
    has_zeros: bool = False,
    is_split: bool = False,
) -> CompileCase:
    """A product whose sizes are multiples of all tiles; group size 0 is one group per row."""
    tile: Tile = choose_tile(rows, x_dtype, bits == 0, False, 0)
    columns = 4096
    width = 32 if bits == 4 else 128 if bits == 8 else FLOAT_WIDTH[x_dtype]
    target = "*fp32" if is_split else "*bf16" if x_dtype == torch.int8 else _POINTERS[x_dtype]
    pointers = {
        "x_ptr": _POINTERS[x_dtype],
        "w_ptr": {4: "*i16", 8: "*i8", 0: _POINTERS[x_dtype]}[bits],
        "scales_ptr": "*fp16",
        "zeros_ptr": "*i8",
        "x_scales_ptr": "*fp32",
        "bias_ptr": "*bf16",
        "y_ptr": "*i32" if is_split and x_dtype == torch.int8 else target,
    }
    aligned = ("out_features", "in_features", "x_stride", "w_row_stride", "w_block_stride", "y_stride")
    sizes = (*aligned, "num_rows", "num_blocks", "split_blocks", "group_size", "num_groups")
    constants: dict[str, Any] = {
        "BITS": bits,
        "INT8_X": x_dtype == torch.int8,
        "HAS_ZEROS": has_zeros,
        "HAS_BIAS": False,
        "ONE_GROUP": group_size == 0,
        "IS_SPLIT": is_split,
        "EVEN_N": True,
        "EVEN_K": True,
        "WIDTH": width,
        "PLANES": 4 if bits == 4 else 1,
        "SCALED_PLANES": scaled_planes(group_size or columns, columns) if bits == 4 else 1,
        "BLOCK_N": tile.block_n,
        "BLOCK_M": tile.block_m,
        "NUM_STAGES": tile.num_stages,
    }
    name = f"int{bits} weight" if bits else "float weight"
    name += f" in groups of {group_size}" if group_size else ""
    name += f"{' with zeros' if has_zeros else ''}{', split' if is_split else ''}, {rows} rows of {x_dtype}"
    return CompileCase(
        name,
        tile_kernel,
        pointers | dict.fromkeys(sizes, "i32"),
        constants,
        num_warps=tile.num_warps,
        aligned=(*pointers, *aligned),
    )
