"""What a product needs besides the product: rows of x rounded to int8, and a weight's values written out.

quantize_rows: scale = max|x| / 127,  q = round(x * (127 / max|x|))          of each row by itself
dequantize:    W = (q - zero) * scale                                        some output channels at a time
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .linear_packed import PackedInteger
from .linear_tile import weight_values
from .support import CompileCase, next_power_of_2

DEQUANTIZED_ROWS = 64

SMALLEST_MAXIMUM = tl.constexpr(0x02FE0001)
"""The bits of the smallest fp32 value that 127 can be divided by: a smaller one's quotient is infinite."""


@triton.jit
def quantize_rows_kernel(x_ptr, q_ptr, scales_ptr, x_stride, size, BLOCK: tl.constexpr):
    """One row, which is in registers as a whole."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    # As an integer, a magnitude that is infinite or NaN is larger than all others.
    bits = tl.max(x.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 0)
    largest = bits.to(tl.float32, bitcast=True)
    is_finite = bits < 0x7F800000
    keeps = is_finite & (bits >= SMALLEST_MAXIMUM)
    inverse = tl.div_rn(127.0, tl.where(keeps, largest, 127.0))
    # The product is rounded before it is rounded to an integer, as the reference does: an fma with 0 is a
    # product that is not fused with the sum. Adding 1.5 * 2^23 rounds to the nearest integer, ties to even.
    product = tl.fma(tl.where(keeps, x, 0.0), inverse, 0.0)
    q = (product + 12582912.0) - 12582912.0
    q = tl.minimum(tl.maximum(q, -127.0), 127.0)
    tl.store(q_ptr + row * size + columns, q.to(tl.int8), mask=inside)
    tl.store(scales_ptr + row, tl.where(is_finite, tl.div_rn(largest, 127.0), float("nan")))


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """`reference.quantize_rows` of `[M, K]`, bit for bit as it is on a CPU; the scales are `[M]`.

    Args:
        x: Float, neighbours in a row side by side.
    """
    rows, size = x.shape
    q = torch.empty(rows, size, dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    if rows:
        block = next_power_of_2(size)
        quantize_rows_kernel[(rows,)](
            x, q, scales, x.stride(0), size, BLOCK=block, num_warps=quantizing_warps(block)
        )
    return q, scales


def quantizing_warps(block: int) -> int:
    """Warps for a row: 8 values and more for each thread."""
    return min(16, max(1, block // 256))


@triton.jit
def dequantize_kernel(
    w_ptr,
    scales_ptr,
    zeros_ptr,
    y_ptr,
    first_row,
    num_rows,
    out_features,
    in_features,
    w_row_stride,
    w_block_stride,
    group_size,
    num_groups,
    HAS_ZEROS: tl.constexpr,
    BITS: tl.constexpr,
    WIDTH: tl.constexpr,
    PLANES: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One block of columns of `BLOCK_N` output channels, which are numbered from `first_row` on."""
    block = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    columns = tl.arange(0, WIDTH)
    has_row = rows < num_rows
    n = first_row + rows
    w_tile = w_ptr + block.to(tl.int64) * w_block_stride
    w = tl.load(
        w_tile + n.to(tl.int64)[:, None] * w_row_stride + columns[None, :], mask=has_row[:, None], other=0
    )
    zero = tl.full((BLOCK_N, 1), 8 if BITS == 4 else 0, dtype=tl.int16)
    y_rows = y_ptr + rows.to(tl.int64)[:, None] * in_features
    for plane in tl.static_range(PLANES):  # pyright: ignore[reportGeneralTypeIssues]
        first_k = (block * PLANES + plane) * WIDTH
        entries = tl.minimum(first_k // group_size, num_groups - 1) * out_features + n
        if HAS_ZEROS:
            zero = tl.load(zeros_ptr + entries, mask=has_row, other=0).to(tl.int16)[:, None]
        scale = tl.load(scales_ptr + entries, mask=has_row, other=0.0).to(tl.float32)[:, None]
        values = weight_values(w, zero, plane, BITS, tl.float32) * scale
        k = first_k + columns
        inside = has_row[:, None] & (k < in_features)[None, :]
        tl.store(y_rows + k[None, :], values.to(y_ptr.dtype.element_ty), mask=inside)


def dequantize(weight: PackedInteger, first: int, last: int, dtype: torch.dtype) -> Tensor:
    """Output channels `first` to `last` as `[last - first, K]`, columns in the weight's own order."""
    rows, k = last - first, weight.in_features
    y = torch.empty(rows, k, dtype=dtype, device=weight.data.device)
    blocks = triton.cdiv(k, weight.width * weight.planes)
    dequantize_kernel[(blocks, triton.cdiv(rows, DEQUANTIZED_ROWS))](
        weight.data,
        weight.scales,
        weight.scales if weight.zeros is None else weight.zeros,
        y,
        first,
        rows,
        weight.out_features,
        k,
        *weight.strides,
        min(weight.group_size, k),
        weight.scales.shape[0],
        HAS_ZEROS=weight.zeros is not None,
        BITS=weight.bits,
        WIDTH=weight.width,
        PLANES=weight.planes,
        BLOCK_N=DEQUANTIZED_ROWS,
        num_warps=4,
    )
    return y


def compile_cases() -> Iterator[CompileCase]:
    """Rows of Qwen3-0.6B and Llama-3.1-8B, and their weights as AWQ, GPTQ and quire itself store them."""
    for size in (1024, 4096, 14336):
        block = next_power_of_2(size)
        yield CompileCase(
            f"rows of {size} rounded",
            quantize_rows_kernel,
            {"x_ptr": "*bf16", "q_ptr": "*i8", "scales_ptr": "*fp32", "x_stride": "i32", "size": "i32"},
            {"BLOCK": block},
            num_warps=quantizing_warps(block),
            aligned=("x_ptr", "q_ptr", "scales_ptr", "x_stride", "size"),
        )
    sizes = ("first_row", "num_rows", "out_features", "in_features", "w_row_stride", "w_block_stride")
    sizes += ("group_size", "num_groups")
    for bits, width, planes, has_zeros in ((4, 32, 4, False), (4, 32, 4, True), (8, 128, 1, False)):
        pointers = {
            "w_ptr": "*i16" if bits == 4 else "*i8",
            "scales_ptr": "*fp16",
            "zeros_ptr": "*i8" if has_zeros else "*fp16",
            "y_ptr": "*bf16",
        }
        yield CompileCase(
            f"int{bits}{' with zeros' if has_zeros else ''} written out",
            dequantize_kernel,
            pointers | dict.fromkeys(sizes, "i32"),
            {
                "HAS_ZEROS": has_zeros,
                "BITS": bits,
                "WIDTH": width,
                "PLANES": planes,
                "BLOCK_N": DEQUANTIZED_ROWS,
            },
            num_warps=4,
            aligned=(*pointers, *sizes[:6]),
        )
