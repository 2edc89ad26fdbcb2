"""Paged attention of sequences with several queries in a step: prompts, or chunks of them.

A program computes BLOCK_M rows of one sequence, neighbouring queries with all heads that share a KV head,
over all keys that they see (FlashAttention-2, Dao, 2023, over pages). Its loop is over tiles; where a chunk
of keys ends, the chunk's state is merged into the whole and starts afresh, which makes a row's arithmetic
that of `paged_decode`. Only tiles on the diagonal or on the edge of the window are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..types import AttentionMetadata
from .paged_launch import PROBLEMS, Problem, block_keys, is_hopper
from .paged_tile import attend_tile, finish, merge
from .support import CompileCase, next_power_of_2

VARYING = ("num_seqs", "num_blocks", "table_stride", "window")


@triton.jit
def find_sequence(query_start_ptr, num_seqs, tile, BLOCK_Q: tl.constexpr, SEARCH: tl.constexpr):
    """The sequence of a tile, where the tiles of sequence s begin at `query_start[s] // BLOCK_Q + s`.

    That leaves each sequence as many tiles as it needs or one more, and asks of the host but T and S.
    """
    before = 0
    for first in range(0, num_seqs, SEARCH):
        seq = first + tl.arange(0, SEARCH)
        start = tl.load(query_start_ptr + seq, mask=seq < num_seqs, other=0)
        before += tl.sum(((seq < num_seqs) & (start // BLOCK_Q + seq <= tile)).to(tl.int32), 0)
    return before - 1


@triton.jit(do_not_specialize=VARYING)
def paged_prefill_kernel(
    out_ptr,
    q_ptr,
    cache_ptr,
    scales_ptr,
    tables_ptr,
    query_start_ptr,
    seq_lens_ptr,
    sinks_ptr,
    num_seqs,
    num_blocks,
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
    SEARCH: tl.constexpr,
    COMPUTE: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SINKS: tl.constexpr,
    INT8: tl.constexpr,
    FP8_BITS: tl.constexpr,
):
    """One tile of queries and one KV head; tiles of sequences with fewer than two queries leave at once."""
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    # The last tiles of a prompt see most keys, so they begin first.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    seq = find_sequence(query_start_ptr, num_seqs, tile, BLOCK_Q, SEARCH)
    start = tl.load(query_start_ptr + seq)
    num_queries = tl.load(query_start_ptr + seq + 1) - start
    first_query = (tile - (start // BLOCK_Q + seq)) * BLOCK_Q
    if (num_queries < 2) | (first_query >= num_queries):
        return
    head = tl.program_id(1)
    context = tl.load(seq_lens_ptr + seq) - num_queries

    row = tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_D)
    query = first_query + row // GROUP
    used = (row < BLOCK_Q * GROUP) & (query < num_queries)
    inside = used[:, None] & (channel[None, :] < HEAD_SIZE)
    # Rows that are not used look at what the tile's last query sees.
    last_query = tl.minimum(first_query + BLOCK_Q, num_queries) - 1
    position = context + tl.minimum(query, last_query)
    heads = head * GROUP + row % GROUP
    where = (start + query).to(tl.int64)[:, None] * q_stride + heads[:, None] * HEAD_SIZE + channel[None, :]
    q = tl.load(q_ptr + where, mask=inside, other=0.0).to(COMPUTE)
    table_ptr = tables_ptr + seq.to(tl.int64) * table_stride
    values_offset = num_blocks.to(tl.int64) * (KV_HEADS * BLOCK_SIZE * ROW)

    first_key = 0
    if WINDOW:
        first_key = tl.maximum(context + first_query - window + 1, 0)
    end = context + last_query + 1
    whole_top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    whole_total = tl.zeros([BLOCK_M], tl.float32)
    whole_acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M, 16], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for begin in range(first_key // BLOCK_N * BLOCK_N, end, BLOCK_N):
        keys = begin + tl.arange(0, BLOCK_N)
        masked = begin + BLOCK_N > context + first_query + 1
        if WINDOW:
            masked = masked | (begin + window <= context + last_query)
        top, total, acc = attend_tile(
            q,
            top,
            total,
            acc,
            position,
            keys,
            (keys >= first_key) & (keys < end),
            masked,
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
        if ((begin + BLOCK_N) % CHUNK == 0) | (begin + BLOCK_N >= end):
            whole_top, whole_total, whole_acc = merge(
                whole_top, whole_total, whole_acc, top, tl.max(total, 1), acc, unit
            )
            top = tl.full([BLOCK_M], float("-inf"), tl.float32)
            total = tl.zeros([BLOCK_M, 16], tl.float32)
            acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    sink = whole_top
    if SINKS:
        sink = tl.load(sinks_ptr + heads, mask=used, other=0.0).to(tl.float32)
    out = finish(whole_top, whole_total, whole_acc, sink, unit, SINKS, INT8)
    where = ((start + query).to(tl.int64) * (KV_HEADS * GROUP) + heads)[:, None] * HEAD_SIZE
    tl.store(out_ptr + where + channel[None, :], out.to(out_ptr.dtype.element_ty), mask=inside)


def launch_prefill(
    out: Tensor,
    q: Tensor,
    kv_cache: Tensor,
    scales: Tensor,
    meta: AttentionMetadata,
    problem: Problem,
    sinks: Tensor | None,
) -> None:
    """Computes the rows of all sequences that have two queries or more; leaves the others' as they are.

    The arguments are those of `launch_decode`.
    """
    num_seqs = meta.seq_lens.shape[0]
    constants, options = prefill_form(problem, is_hopper(q), sinks is not None)
    tiles = q.shape[0] // (constants["BLOCK_M"] // problem.group) + num_seqs
    paged_prefill_kernel[(tiles, problem.num_kv_heads)](
        out,
        q,
        kv_cache,
        scales,
        meta.block_tables,
        meta.query_start,
        meta.seq_lens,
        q if sinks is None else sinks,
        num_seqs,
        kv_cache.shape[1],
        meta.block_tables.stride(0),
        q.stride(0),
        problem.window,
        problem.unit,
        problem.cap,
        **constants,
        **options,
    )


def prefill_form(problem: Problem, hopper: bool, sinks: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constants and options of the kernel.

    What decides is registers: a program holds two fp32 sums of values, of the chunk and of the whole. On
    Hopper the products take keys and values from shared memory, and 128 rows of 128 channels on eight warps
    leave room for the scores (64 + 64 + 32 of a thread's 255 registers). On Ampere they take them from
    registers, and only half as many rows fit; of an int8 cache, whose values come in 4-byte pieces and have
    to be converted, half as many again, and fewer addresses of tiles to come. Five stages are two tiles
    ahead, as in `decode_form`.
    """
    rows, stages = 128, 2 if problem.cache == "int8" else 3
    if problem.compute_dtype.itemsize == 4:
        rows = 32
    elif hopper:
        rows = 128 if problem.block_channels <= 128 else 64
        stages = 2 if problem.cache == "int8" else 5
    elif problem.block_channels > 64:
        rows = 64 if problem.block_channels <= 128 and problem.cache != "int8" else 32
    constants = problem.constants()
    constants.update(
        BLOCK_M=max(rows, next_power_of_2(problem.group)),
        BLOCK_N=block_keys(problem),
        BLOCK_D=problem.block_channels,
        SEARCH=256,
        SINKS=sinks,
    )
    return constants, {"num_warps": 8, "num_stages": stages, "enable_fp_fusion": False}


def compile_cases() -> Iterator[CompileCase]:
    """The models of `PROBLEMS`, as an Ampere and a Hopper launch would run them."""
    for name, problem in PROBLEMS.items():
        pointers = {
            "out_ptr": problem.q_type,
            "q_ptr": problem.q_type,
            "cache_ptr": problem.cache_type,
            "scales_ptr": "*fp32" if problem.cache == "int8" else problem.cache_type,
            **dict.fromkeys(("tables_ptr", "query_start_ptr", "seq_lens_ptr"), "*i32"),
            "sinks_ptr": problem.q_type,
        }
        for arch in problem.archs:
            constants, options = prefill_form(problem, arch == 90, sinks=problem.window > 0)
            yield CompileCase(
                name,
                paged_prefill_kernel,
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
                archs=(arch,),
            )
