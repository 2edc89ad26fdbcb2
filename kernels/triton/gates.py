"""The gates of SwiGLU and GEGLU (Shazeer, 2020).

    silu(g) * u,  silu(g) = g / (1 + exp(-g))
    gelu(g) * u,  gelu(g) = g / 2 * (1 + erf(g / sqrt(2))), or its approximation by tanh,
                  g / 2 * (1 + tanh(z)) = g / (1 + exp(-2 z)),  z = sqrt(2 / pi) * (g + 0.044715 * g^3)

One program computes a piece of one row. Nothing is reduced, so all of it is bound by memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl
from torch import Tensor

from .support import CompileCase, next_power_of_2

BLOCK = 1024
"""Columns of a program: 16 bytes for each of 128 threads in a 16-bit dtype, two loads of them."""

ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


@triton.jit
def sigmoid(x):
    """`1 / (1 + exp(-x))`, of which no part overflows."""
    power = tl.exp(-tl.abs(x))
    return tl.where(x >= 0.0, 1.0, power) / (1.0 + power)


@triton.jit
def activate(gate, ACTIVATION: tl.constexpr):
    """The activation of fp32 values."""
    if ACTIVATION == "silu":
        return gate * sigmoid(gate)
    if ACTIVATION == "gelu":
        return 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    z = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    return gate * sigmoid(2.0 * z)


@triton.jit
def gate_kernel(x_ptr, y_ptr, x_stride, size, ACTIVATION: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of one row; rows of x are `x_stride` elements apart and hold `gate | up`, `size` of each."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    x_ptr += row * x_stride
    gate = tl.load(x_ptr + columns, mask=inside, other=0.0)
    up = tl.load(x_ptr + size + columns, mask=inside, other=0.0)
    # Rounded before the product, as the reference does.
    y = activate(gate.to(tl.float32), ACTIVATION).to(gate.dtype) * up
    tl.store(y_ptr + row * size + columns, y, mask=inside)


def silu_and_mul(x: Tensor) -> Tensor:
    """See `reference.silu_and_mul`."""
    return _launch(x, "silu")


def gelu_and_mul(x: Tensor, approximate: str = "tanh") -> Tensor:
    """See `reference.gelu_and_mul`."""
    if approximate not in ("tanh", "none"):
        raise ValueError(f"approximate must be tanh or none, got {approximate!r}")
    return _launch(x, "gelu_tanh" if approximate == "tanh" else "gelu")


def _launch(x: Tensor, activation: str) -> Tensor:
    if x.shape[-1] % 2:
        raise ValueError(f"gate and up need an even last dimension, got shape {tuple(x.shape)}")
    size = x.shape[-1] // 2
    rows = x.reshape(-1, 2 * size)
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    y = rows.new_empty(rows.shape[0], size)
    if y.numel():
        block = min(BLOCK, next_power_of_2(size))
        grid = (rows.shape[0], triton.cdiv(size, block))
        gate_kernel[grid](
            rows, y, rows.stride(0), size, ACTIVATION=activation, BLOCK=block, num_warps=num_warps(block)
        )
    return y.view(*x.shape[:-1], size)


def num_warps(block: int) -> int:
    """Warps of a program: 8 values and more for each thread."""
    return max(1, block // 256)


def compile_cases() -> Iterator[CompileCase]:
    """Every activation on rows of any length, in both 16-bit dtypes."""
    for activation in ACTIVATIONS:
        for dtype in ("bf16", "fp16"):
            yield CompileCase(
                f"{activation} {dtype}",
                gate_kernel,
                {"x_ptr": f"*{dtype}", "y_ptr": f"*{dtype}", "x_stride": "i32", "size": "i32"},
                {"ACTIVATION": activation, "BLOCK": BLOCK},
                num_warps=num_warps(BLOCK),
                aligned=("x_ptr", "y_ptr", "x_stride", "size"),
            )
