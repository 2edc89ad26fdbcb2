"""Paged attention of sequences with one query in a step: every chunk of keys by itself, then all together.

A sequence's keys are read once, by programs that each take whole chunks (flash-decoding, Dao et al., 2023).
The heads that share a KV head are the rows of one matrix product. What a chunk gives goes to a workspace in
fp32, and a second kernel merges a head's chunks from left to right. How many programs share the chunks of a
sequence decides who computes a chunk, never what it gives.

Grids depend on shapes and on `max_seq_len` alone, and the kernels take each sequence's length from the
device: programs without a chunk leave at once, so that one CUDA graph serves all lengths up to the captured
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..types import AttentionMetadata
from .paged_launch import CHUNK, PROBLEMS, Problem, block_keys
from .paged_tile import attend_tile, finish, merge
from .support import CompileCase, next_power_of_2

WORKSPACE_BYTES = 256 << 20
"""A batch whose chunks would take more is computed some sequences at a time."""

TARGET_PROGRAMS = 4096
"""Programs of a large batch: several for each place on the largest GPU, 132 multiprocessors with up to eight
programs each, and few enough that leaving at once is cheap for those that find nothing to do."""

VARYING = ("first_seq", "num_blocks", "slots", "table_stride", "window")


@triton.jit(do_not_specialize=VARYING)
def paged_decode_kernel(
    q_ptr,
    cache_ptr,
    scales_ptr,
    tables_ptr,
    query_start_ptr,
    seq_lens_ptr,
    acc_ptr,
    sums_ptr,
    first_seq,
    num_blocks,
    slots,
    table_stride,
    q_stride,
    window,
    unit,
    cap,
    GROUP: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    COMPUTE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    INT8: tl.constexpr,
    FP8_BITS: tl.constexpr,
):
    """Chunks `program_id(0)`, `+ num_programs(0)`, ... of a sequence and a KV head, into the workspace.

    acc_ptr: fp32 `[sequences, heads, slots, HEAD_SIZE]`; a slot is a chunk, counted from the first in sight.
    sums_ptr: fp32 `[sequences, heads, slots, 2]`: the largest score, and the sum of weights.
    """
    head = tl.program_id(1)
    local_seq = tl.program_id(2)
    seq = first_seq + local_seq
    start = tl.load(query_start_ptr + seq)
    if tl.load(query_start_ptr + seq + 1) - start != 1:
        return
    length = tl.load(seq_lens_ptr + seq)
    first_key = 0
    if WINDOW:
        first_key = tl.maximum(length - window, 0)
    first_chunk = first_key // CHUNK
    slot = tl.program_id(0)
    if (first_chunk + slot) * CHUNK >= length:
        return

    row = tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_D)
    heads = head * GROUP + row
    used = row[:, None] < GROUP
    inside = used & (channel[None, :] < HEAD_SIZE)
    q_rows = q_ptr + start.to(tl.int64) * q_stride
    q = tl.load(q_rows + heads[:, None] * HEAD_SIZE + channel[None, :], mask=inside, other=0.0).to(COMPUTE)
    position = tl.full([BLOCK_M], 0, tl.int32) + (length - 1)
    table_ptr = tables_ptr + seq.to(tl.int64) * table_stride
    values_offset = num_blocks.to(tl.int64) * (KV_HEADS * BLOCK_SIZE * ROW)
    workspace = (local_seq.to(tl.int64) * (KV_HEADS * GROUP) + heads) * slots

    for chunk in range(first_chunk + slot, tl.cdiv(length, CHUNK), tl.num_programs(0)):
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M, 16], tl.float32)
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        begin = tl.maximum(chunk * CHUNK, first_key // BLOCK_N * BLOCK_N)
        for tile in range(begin, tl.minimum(chunk * CHUNK + CHUNK, length), BLOCK_N):
            keys = tile + tl.arange(0, BLOCK_N)
            top, total, acc = attend_tile(
                q,
                top,
                total,
                acc,
                position,
                keys,
                (keys >= first_key) & (keys < length),
                (tile < first_key) | (tile + BLOCK_N > length),
                cache_ptr,
                scales_ptr,
                table_ptr,
                values_offset,
                head,
                window,
                unit,
                cap,
                BLOCK_SIZE,
                KV_HEADS,
                HEAD_SIZE,
                ROW,
                WINDOW,
                SOFTCAP,
                INT8,
                FP8_BITS,
            )
        at = workspace + (chunk - first_chunk)
        tl.store(acc_ptr + at[:, None] * HEAD_SIZE + channel[None, :], acc, mask=inside)
        tl.store(sums_ptr + at * 2, top, mask=row < GROUP)
        tl.store(sums_ptr + at * 2 + 1, tl.max(total, 1), mask=row < GROUP)


@triton.jit(do_not_specialize=("first_seq", "slots", "window"))
def paged_merge_kernel(
    out_ptr,
    acc_ptr,
    sums_ptr,
    sinks_ptr,
    query_start_ptr,
    seq_lens_ptr,
    first_seq,
    slots,
    window,
    unit,
    HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,
    AHEAD: tl.constexpr,
    WINDOW: tl.constexpr,
    SINKS: tl.constexpr,
    INT8: tl.constexpr,
):
    """Merges the chunks of one head of one sequence; the loads of AHEAD chunks are in flight together."""
    head = tl.program_id(0)
    local_seq = tl.program_id(1)
    seq = first_seq + local_seq
    start = tl.load(query_start_ptr + seq)
    if tl.load(query_start_ptr + seq + 1) - start != 1:
        return
    length = tl.load(seq_lens_ptr + seq)
    first_chunk = 0
    if WINDOW:
        first_chunk = tl.maximum(length - window, 0) // CHUNK
    num_chunks = tl.cdiv(length, CHUNK) - first_chunk

    channel = tl.arange(0, BLOCK_D)
    one = tl.arange(0, 1)
    top = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([1, BLOCK_D], tl.float32)
    workspace = (local_seq.to(tl.int64) * HEADS + head) * slots
    for first in range(0, num_chunks, AHEAD):
        for i in tl.static_range(AHEAD):  # pyright: ignore[reportGeneralTypeIssues]
            at = workspace + first + i + one
            there = one < num_chunks - first - i  # a chunk that is not there changes nothing
            inside = there[:, None] & (channel[None, :] < HEAD_SIZE)
            next_top = tl.load(sums_ptr + at * 2, mask=there, other=float("-inf"))
            next_total = tl.load(sums_ptr + at * 2 + 1, mask=there, other=0.0)
            next_acc = tl.load(acc_ptr + at[:, None] * HEAD_SIZE + channel[None, :], mask=inside, other=0.0)
            top, total, acc = merge(top, total, acc, next_top, next_total, next_acc, unit)
    sink = total
    if SINKS:
        sink = tl.load(sinks_ptr + head + one).to(tl.float32)
    out = finish(top, total, acc, sink, unit, SINKS, INT8)
    where = (start.to(tl.int64) * HEADS + head) * HEAD_SIZE + channel
    tl.store(out_ptr + where[None, :], out.to(out_ptr.dtype.element_ty), mask=channel[None, :] < HEAD_SIZE)


def launch_decode(
    out: Tensor,
    q: Tensor,
    kv_cache: Tensor,
    scales: Tensor,
    meta: AttentionMetadata,
    problem: Problem,
    sinks: Tensor | None,
) -> None:
    """Computes the rows of all sequences that have one query; leaves the others' as they are.

    Args:
        out: `[T, num_heads, head_size]`, contiguous.
        q: In the same shape, its heads contiguous.
        kv_cache: As `reference.paged_attention` has it; float8 as the kernel takes it.
        scales: The cache's memory as fp32, if it is int8.
        meta: Gives each sequence's rows, length and block table.
        problem: What is to be computed.
        sinks: `[num_heads]` or None.
    """
    num_heads, num_seqs, window = problem.num_heads, meta.seq_lens.shape[0], problem.window
    slots = -(-meta.max_seq_len // CHUNK)
    if window > 0:
        slots = min(slots, -(-window // CHUNK) + 1)
    per_seq = num_heads * slots * (problem.head_size + 2)
    step = min(num_seqs, max(1, WORKSPACE_BYTES // (4 * per_seq)))
    workspace = torch.empty(step * per_seq, dtype=torch.float32, device=q.device)
    sums = workspace[step * num_heads * slots * problem.head_size :]
    programs = min(slots, max(1, TARGET_PROGRAMS // (step * problem.num_kv_heads)))
    constants, options = decode_form(problem)
    merge_constants, merge_options = merge_form(problem, sinks is not None)
    for first in range(0, num_seqs, step):
        count = min(step, num_seqs - first)
        paged_decode_kernel[(programs, problem.num_kv_heads, count)](
            q,
            kv_cache,
            scales,
            meta.block_tables,
            meta.query_start,
            meta.seq_lens,
            workspace,
            sums,
            first,
            kv_cache.shape[1],
            slots,
            meta.block_tables.stride(0),
            q.stride(0),
            window,
            problem.unit,
            problem.cap,
            **constants,
            **options,
        )
        paged_merge_kernel[(num_heads, count)](
            out,
            workspace,
            sums,
            q if sinks is None else sinks,
            meta.query_start,
            meta.seq_lens,
            first,
            slots,
            window,
            problem.unit,
            **merge_constants,
            **merge_options,
        )


def decode_form(problem: Problem) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constants and options of the kernel that computes the chunks, the same for all GPUs.

    A tile of keys and values is 32 KiB in a 16-bit cache. With five stages, two of which the loop spends on
    fetching block numbers first, two tiles are in flight or in use: 64 KiB, of which an A100 holds two
    programs and an H100 three, more than the 40 KiB in flight that hide the latency of an H100's memory.
    Warps share the tile's keys in the first product and its channels in the second; rows of int8 values
    lie on 4-byte boundaries only, and so many addresses take eight warps.
    """
    constants = problem.constants()
    constants.update(
        BLOCK_M=max(16, next_power_of_2(problem.group)),
        BLOCK_N=block_keys(problem),
        BLOCK_D=problem.block_channels,
    )
    warps = 4 if problem.cache == "float" else 8
    return constants, {"num_warps": warps, "num_stages": 5, "enable_fp_fusion": False}


def merge_form(problem: Problem, sinks: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constants and options of the kernel that merges the chunks: a warp, which holds a row of channels."""
    constants = {
        "HEADS": problem.num_heads,
        "HEAD_SIZE": problem.head_size,
        "CHUNK": CHUNK,
        "BLOCK_D": problem.block_channels,
        "AHEAD": 8,
        "WINDOW": problem.window > 0,
        "SINKS": sinks,
        "INT8": problem.cache == "int8",
    }
    return constants, {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": False}


def compile_cases() -> Iterator[CompileCase]:
    """The models of `PROBLEMS`."""
    for name, problem in PROBLEMS.items():
        pointers = {
            "q_ptr": problem.q_type,
            "cache_ptr": problem.cache_type,
            "scales_ptr": "*fp32" if problem.cache == "int8" else problem.cache_type,
            **dict.fromkeys(("tables_ptr", "query_start_ptr", "seq_lens_ptr"), "*i32"),
            **dict.fromkeys(("acc_ptr", "sums_ptr"), "*fp32"),
        }
        constants, options = decode_form(problem)
        yield CompileCase(
            name,
            paged_decode_kernel,
            {
                **pointers,
                **dict.fromkeys((*VARYING, "q_stride"), "i32"),
                **dict.fromkeys(("unit", "cap"), "fp32"),
            },
            constants,
            num_warps=options["num_warps"],
            num_stages=options["num_stages"],
            fp_fusion=False,
            aligned=(*pointers, "q_stride"),
            archs=problem.archs,
        )
        constants, options = merge_form(problem, sinks=problem.window > 0)
        pointers = {
            "out_ptr": problem.q_type,
            **dict.fromkeys(("acc_ptr", "sums_ptr"), "*fp32"),
            "sinks_ptr": problem.q_type,
            **dict.fromkeys(("query_start_ptr", "seq_lens_ptr"), "*i32"),
        }
        yield CompileCase(
            name,
            paged_merge_kernel,
            {**pointers, **dict.fromkeys(("first_seq", "slots", "window"), "i32"), "unit": "fp32"},
            constants,
            num_warps=options["num_warps"],
            fp_fusion=False,
            aligned=tuple(pointers),
        )
