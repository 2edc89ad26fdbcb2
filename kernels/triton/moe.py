"""Mixture of gated experts: each token's best experts, and their weighted sum.

    p = softmax(router logits);   y = sum over the top_k experts e of p_e * down_e (silu(gate_e x) * (up_e x))

Five launches, none of which the host waits for, with grids that depend on shapes alone:

1. A token's experts and their weights.
2. An expert's assignments (a token and one of its experts) in the order of the tokens, in blocks of rows that
   are filled up, so that a block belongs to one expert.
3. gate and up of a block, one after the other along the inputs, and the activation.
4. down of a block; each assignment's result goes to a row of its own.
5. A token's sum over its experts, from the most likely down.

A token's products and sums are made in one order, whoever else is in the batch: tiles have a fixed number of
inputs, and the number of rows in a block changes no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gates import activate
from .support import CompileCase, next_power_of_2

SCAN = 1024
"""Assignments that an expert looks through at a time."""

REDUCE_BLOCK = 1024

NO_EXPERT = tl.constexpr(0x7FFFFFFF)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes of the products' tiles: rows, outputs (of gate and as many of up; of down), and inputs."""

    rows: int
    gates: int
    columns: int
    inputs: int
    num_warps: int
    num_stages: int


SMALL = Tiles(64, 64, 64, 64, 4, 4)
"""Few tokens for each expert: the time is that of reading the weights. 64 rows are the least that Hopper's
wgmma takes, and even full of padding they cost less than the reading. 24 KiB of shared memory a stage."""

LARGE = Tiles(128, 64, 128, 64, 8, 3)
"""Many: a thread has 64 registers of sums, and twice as many would spill on Ampere. 32 KiB a stage."""

LARGE_ROWS = 96
"""Assignments per expert, on average, from which LARGE wastes less in padding than it saves in reading."""

EXACT = Tiles(32, 32, 32, 32, 4, 2)
"""fp32, which has no tensor cores to feed."""


@triton.jit
def route_kernel(
    logits_ptr,
    weights_ptr,
    experts_ptr,
    stride,
    num_experts,
    TOP_K: tl.constexpr,
    RENORMALIZE: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
):
    """One token; of equally likely experts the first is chosen."""
    token = tl.program_id(0).to(tl.int64)
    expert, choice = tl.arange(0, EXPERTS), tl.arange(0, CHOICES)
    x = tl.load(logits_ptr + token * stride + expert, mask=expert < num_experts, other=float("-inf"))
    x = x.to(tl.float32)
    chances = tl.exp(x - tl.max(x, 0))
    chances /= tl.sum(chances, 0)
    weights, chosen = tl.zeros((CHOICES,), tl.float32), tl.zeros((CHOICES,), tl.int32)
    for i in tl.static_range(TOP_K):  # pyright: ignore[reportGeneralTypeIssues]
        best = tl.max(chances, 0)
        which = tl.min(tl.where(chances == best, expert, NO_EXPERT), 0)
        which = tl.minimum(which, num_experts - 1)  # a token with a NaN has no best
        weights = tl.where(choice == i, best, weights)
        chosen = tl.where(choice == i, which, chosen)
        chances = tl.where(expert == which, -1.0, chances)
    if RENORMALIZE:
        weights /= tl.sum(weights, 0)
    tl.store(weights_ptr + token * TOP_K + choice, weights, mask=choice < TOP_K)
    tl.store(experts_ptr + token * TOP_K + choice, chosen, mask=choice < TOP_K)


@triton.jit
def align_kernel(
    experts_ptr,
    rows_ptr,
    owners_ptr,
    num_blocks_ptr,
    num_assignments,
    num_experts,
    ROWS: tl.constexpr,
    BINS: tl.constexpr,
    SCAN: tl.constexpr,
):
    """One expert: its blocks' rows, each an assignment or, to fill the last block, `num_assignments`."""
    own = tl.program_id(0)
    counts = tl.zeros((BINS,), tl.int32)
    for start in range(0, num_assignments, SCAN):
        place = start + tl.arange(0, SCAN)
        experts = tl.load(experts_ptr + place, mask=place < num_assignments, other=num_experts)
        counts += tl.histogram(experts, BINS)
    expert = tl.arange(0, BINS)
    blocks = tl.where(expert < num_experts, (counts + ROWS - 1) // ROWS, 0)
    first = tl.sum(tl.where(expert < own, blocks, 0), 0)
    number = tl.sum(tl.where(expert == own, blocks, 0), 0)
    if own == 0:
        tl.store(num_blocks_ptr, tl.sum(blocks, 0))
    for block in range(number):
        tl.store(owners_ptr + first + block, own)
    rows_ptr += first * ROWS
    found = number * 0
    for start in range(0, num_assignments, SCAN):
        place = start + tl.arange(0, SCAN)
        experts = tl.load(experts_ptr + place, mask=place < num_assignments, other=num_experts)
        mine = (experts == own).to(tl.int32)
        tl.store(rows_ptr + found + tl.cumsum(mine, 0) - 1, place, mask=mine > 0)
        found += tl.sum(mine, 0)
    rest = found + tl.arange(0, ROWS)
    tl.store(rows_ptr + rest, rest * 0 + num_assignments, mask=rest < number * ROWS)


@triton.jit
def gate_up_kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    rows_ptr,
    owners_ptr,
    num_blocks_ptr,
    x_stride,
    expert_stride,
    weight_stride,
    num_assignments,
    num_inputs,
    num_outputs,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """A block's `silu(gate x) * (up x)`, for some outputs; the rows of y are those of the blocks."""
    block = tl.program_id(0)
    if block >= tl.load(num_blocks_ptr):
        return
    expert = tl.load(owners_ptr + block).to(tl.int64)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    assignment = tl.load(rows_ptr + row)
    column, inner = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, INPUTS)
    real, inside = (assignment < num_assignments)[:, None], (column < num_outputs)[None, :]
    x_ptrs = x_ptr + (assignment // TOP_K).to(tl.int64)[:, None] * x_stride + inner[None, :]
    # Within an expert, 32 bits are enough, and save registers.
    gate_ptr = weight_ptr + expert * expert_stride
    up_ptr = gate_ptr + num_outputs.to(tl.int64) * weight_stride
    offsets = column[None, :] * weight_stride + inner[:, None]
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    up = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, num_inputs, INPUTS):
        left = num_inputs - start
        x = tl.load(x_ptrs + start, mask=real & (inner[None, :] < left), other=0.0)
        weight = tl.load(gate_ptr + start + offsets, mask=inside & (inner[:, None] < left), other=0.0)
        gate = tl.dot(x, weight, gate, input_precision="ieee")
        weight = tl.load(up_ptr + start + offsets, mask=inside & (inner[:, None] < left), other=0.0)
        up = tl.dot(x, weight, up, input_precision="ieee")
    # Rounded where the reference rounds.
    dtype = y_ptr.dtype.element_ty
    y = activate(gate.to(dtype).to(tl.float32), "silu").to(dtype) * up.to(dtype)
    tl.store(y_ptr + row[:, None] * num_outputs + column[None, :], y, mask=real & inside)


@triton.jit
def down_kernel(
    x_ptr,
    weight_ptr,
    y_ptr,
    rows_ptr,
    owners_ptr,
    num_blocks_ptr,
    expert_stride,
    weight_stride,
    num_assignments,
    num_inputs,
    num_outputs,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INPUTS: tl.constexpr,
):
    """A block's `down x`, for some outputs; the rows of x are those of the blocks, of y the assignments."""
    block = tl.program_id(0)
    if block >= tl.load(num_blocks_ptr):
        return
    expert = tl.load(owners_ptr + block).to(tl.int64)
    row = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    assignment = tl.load(rows_ptr + row)
    column, inner = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, INPUTS)
    real, inside = (assignment < num_assignments)[:, None], (column < num_outputs)[None, :]
    x_ptrs = x_ptr + row[:, None] * num_inputs + inner[None, :]
    weight_ptr += expert * expert_stride
    offsets = column[None, :] * weight_stride + inner[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, num_inputs, INPUTS):
        left = num_inputs - start
        x = tl.load(x_ptrs + start, mask=real & (inner[None, :] < left), other=0.0)
        weight = tl.load(weight_ptr + start + offsets, mask=inside & (inner[:, None] < left), other=0.0)
        total = tl.dot(x, weight, total, input_precision="ieee")
    y_ptrs = y_ptr + assignment.to(tl.int64)[:, None] * num_outputs + column[None, :]
    tl.store(y_ptrs, total.to(y_ptr.dtype.element_ty), mask=real & inside)


@triton.jit
def reduce_kernel(x_ptr, weights_ptr, y_ptr, size, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of one token's weighted sum."""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in tl.static_range(TOP_K):  # pyright: ignore[reportGeneralTypeIssues]
        x = tl.load(x_ptr + (token * TOP_K + i) * size + columns, mask=columns < size, other=0.0)
        total += x.to(tl.float32) * tl.load(weights_ptr + token * TOP_K + i)
    tl.store(y_ptr + token * size + columns, total.to(y_ptr.dtype.element_ty), mask=columns < size)


def moe(
    x: Tensor, router_logits: Tensor, gate_up: Tensor, down: Tensor, top_k: int, renormalize: bool = True
) -> Tensor:
    """See `reference.moe`."""
    tokens, hidden = x.shape
    num_experts, _, intermediate = down.shape
    y = torch.empty(tokens, hidden, dtype=x.dtype, device=x.device)
    if not tokens:
        return y
    weights, chosen = route(router_logits, top_k, renormalize)
    assignments = tokens * top_k
    tiles = choose_tiles(x.dtype, assignments, num_experts)
    rows, owners, num_blocks = align(chosen, num_experts, tiles.rows)
    blocks = owners.shape[0]
    inner = torch.empty(rows.shape[0], intermediate, dtype=x.dtype, device=x.device)
    outer = torch.empty(assignments, hidden, dtype=x.dtype, device=x.device)
    sizes = {"ROWS": tiles.rows, "INPUTS": tiles.inputs}
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    gate_up_kernel[(blocks, triton.cdiv(intermediate, tiles.gates))](
        x,
        gate_up,
        inner,
        rows,
        owners,
        num_blocks,
        x.stride(0),
        gate_up.stride(0),
        gate_up.stride(1),
        assignments,
        hidden,
        intermediate,
        TOP_K=top_k,
        COLUMNS=tiles.gates,
        **sizes,
        **options,
    )
    down_kernel[(blocks, triton.cdiv(hidden, tiles.columns))](
        inner,
        down,
        outer,
        rows,
        owners,
        num_blocks,
        down.stride(0),
        down.stride(1),
        assignments,
        intermediate,
        hidden,
        COLUMNS=tiles.columns,
        **sizes,
        **options,
    )
    block = min(REDUCE_BLOCK, next_power_of_2(hidden))
    reduce_kernel[(tokens, triton.cdiv(hidden, block))](outer, weights, y, hidden, TOP_K=top_k, BLOCK=block)
    return y


def route(router_logits: Tensor, top_k: int, renormalize: bool) -> tuple[Tensor, Tensor]:
    """Each token's experts, from the most likely down, as fp32 weights and int32 indices `[T, top_k]`."""
    tokens, num_experts = router_logits.shape
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=router_logits.device)
    chosen = torch.empty(tokens, top_k, dtype=torch.int32, device=router_logits.device)
    route_kernel[(tokens,)](
        router_logits,
        weights,
        chosen,
        router_logits.stride(0),
        num_experts,
        TOP_K=top_k,
        RENORMALIZE=renormalize,
        EXPERTS=next_power_of_2(num_experts),
        CHOICES=next_power_of_2(top_k),
        num_warps=1,
    )
    return weights, chosen


def align(chosen: Tensor, num_experts: int, rows_of_block: int) -> tuple[Tensor, Tensor, Tensor]:
    """The assignments in blocks, as many as there can be at most.

    Returns:
        int32: for each row of each block its assignment, an index of `chosen`, or `chosen.numel()`; each
        block's expert; and the number of blocks that there are, behind which nothing is written.
    """
    assignments = chosen.numel()
    # Each expert that has assignments may have one block that is not full.
    blocks = assignments // rows_of_block + min(num_experts, assignments)
    rows = torch.empty(blocks * rows_of_block, dtype=torch.int32, device=chosen.device)
    owners = torch.empty(blocks, dtype=torch.int32, device=chosen.device)
    num_blocks = torch.empty(1, dtype=torch.int32, device=chosen.device)
    align_kernel[(num_experts,)](
        chosen,
        rows,
        owners,
        num_blocks,
        assignments,
        num_experts,
        ROWS=rows_of_block,
        BINS=next_power_of_2(num_experts + 1),
        SCAN=SCAN,
        num_warps=4,
    )
    return rows, owners, num_blocks


def choose_tiles(dtype: torch.dtype, assignments: int, num_experts: int) -> Tiles:
    """By reasoning from registers and shared memory, not by measuring: no GPU was at hand."""
    if dtype == torch.float32:
        return EXACT
    return LARGE if assignments >= LARGE_ROWS * num_experts else SMALL


_TYPES = {
    "rows_ptr": "*i32",
    "owners_ptr": "*i32",
    "num_blocks_ptr": "*i32",
    "logits_ptr": "*bf16",
    "weights_ptr": "*fp32",
    "experts_ptr": "*i32",
    "expert_stride": "i64",
    **dict.fromkeys(("x_stride", "weight_stride", "stride", "size"), "i32"),
    **dict.fromkeys(("num_assignments", "num_experts", "num_inputs", "num_outputs"), "i32"),
}
_ALIGNED = ("x_stride", "weight_stride", "expert_stride", "num_inputs", "num_outputs", "size")


def compile_cases() -> Iterator[CompileCase]:
    """Mixtral, with 2 of 8 experts, and Qwen3-MoE, with 8 of 128."""
    for top_k, experts in ((2, 8), (8, 128)):
        constants = {"TOP_K": top_k, "EXPERTS": experts, "CHOICES": top_k, "RENORMALIZE": True}
        constants |= {"BINS": next_power_of_2(experts + 1), "SCAN": SCAN, "ROWS": SMALL.rows}
        constants["BLOCK"] = REDUCE_BLOCK
        name = f"{top_k} of {experts}"
        yield _case(route_kernel, name, "bf16", constants, 1, 2)
        yield _case(align_kernel, name, "bf16", constants, 4, 2)
        yield _case(reduce_kernel, name, "bf16", constants, 4, 2)
    for dtype in ("bf16", "fp16"):
        for tiles in (SMALL, LARGE):
            for kernel, columns in ((gate_up_kernel, tiles.gates), (down_kernel, tiles.columns)):
                constants = {"TOP_K": 8, "ROWS": tiles.rows, "COLUMNS": columns, "INPUTS": tiles.inputs}
                name = f"{dtype}, {tiles.rows} x {columns}"
                yield _case(kernel, name, dtype, constants, tiles.num_warps, tiles.num_stages)


def _case(
    kernel: Any, name: str, dtype: str, constants: dict[str, int], warps: int, stages: int
) -> CompileCase:
    names: list[str] = kernel.arg_names
    types = {**_TYPES, **dict.fromkeys(("x_ptr", "y_ptr", "weight_ptr"), f"*{dtype}")}
    return CompileCase(
        name,
        kernel,
        {key: type_ for key, type_ in types.items() if key in names},
        {key: value for key, value in constants.items() if key in names},
        num_warps=warps,
        num_stages=stages,
        aligned=tuple(key for key in types if key in names and (key.endswith("_ptr") or key in _ALIGNED)),
    )
