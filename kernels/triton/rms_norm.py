"""Root mean square norm, alone and with the residual sum before it.

    y = x / sqrt(mean(x^2) + eps) * weight                       (Zhang & Sennrich, 2019)

One program normalises one row, which it holds in registers: x is read once and y written once. The sums of
a row are those of one program, whatever other rows there are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from .support import CompileCase, next_power_of_2


@triton.jit
def rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    y_ptr,
    total_ptr,
    x_stride,
    residual_stride,
    size,
    eps,
    HAS_RESIDUAL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row; rows of x and residual are `x_stride` and `residual_stride` elements apart."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * x_stride + columns, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        residual = tl.load(residual_ptr + row * residual_stride + columns, mask=inside, other=0.0)
        # The sum is rounded to the dtype of x before it is normalised, as the reference does.
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(total_ptr + row * size + columns, x, mask=inside)
    x32 = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x32 * x32, 0) / size + eps)
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0)
    y = (x32 * scale).to(x.dtype) * weight
    tl.store(y_ptr + row * size + columns, y, mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `reference.rms_norm`."""
    return _launch(x, None, weight, eps)[0]


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `reference.add_rms_norm`."""
    return _launch(x, residual, weight, eps)


def _launch(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    size = x.shape[-1]
    rows = x.reshape(-1, size)
    other = rows if residual is None else residual.reshape(-1, size)
    y = torch.empty_like(rows, memory_format=torch.contiguous_format)
    total = y if residual is None else torch.empty_like(y)
    if rows.shape[0]:
        rms_norm_kernel[(rows.shape[0],)](
            rows,
            other,
            weight,
            y,
            total,
            rows.stride(0),
            other.stride(0),
            size,
            eps,
            HAS_RESIDUAL=residual is not None,
            BLOCK=next_power_of_2(size),
            num_warps=num_warps(size),
        )
    return y.view(x.shape), total.view(x.shape)


def num_warps(size: int) -> int:
    """Warps for a row: 8 values and more for each thread."""
    return min(16, max(1, next_power_of_2(size) // 256))


def compile_cases() -> Iterator[CompileCase]:
    """The hidden sizes of Qwen3-0.6B, Llama-3.1-8B and Llama-3.1-70B."""
    for size in (1024, 4096, 8192):
        for has_residual in (False, True):
            pointers = ("x_ptr", "residual_ptr", "weight_ptr", "y_ptr", "total_ptr")
            yield CompileCase(
                f"size {size}{' with residual' if has_residual else ''}",
                rms_norm_kernel,
                {
                    **dict.fromkeys(pointers, "*bf16"),
                    "x_stride": "i32",
                    "residual_stride": "i32",
                    "size": "i32",
                    "eps": "fp32",
                },
                {"HAS_RESIDUAL": has_residual, "BLOCK": next_power_of_2(size)},
                num_warps=num_warps(size),
                aligned=(*pointers, "x_stride", "residual_stride", "size"),
            )
