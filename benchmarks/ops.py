"""Each kernel of the C++ column against what this machine allows, and against the reference.

    python benchmarks/ops.py [--threads 2] [--seconds 0.5] [--isa avx2] [--only int4]

The limits (memory read, fp32 multiply-adds, bf16 and int8 dot products) are measured in the same run, in turn
with each kernel, and the best of both counts, so that the percentages hold on a busy machine too. The
shapes are those of a 0.5 B parameter model: hidden 896, FFN 4864, 14 heads of 64 over 2 KV heads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quire.kernels import _C, cpu, reference
from quire.kernels.types import AttentionMetadata, LinearWeight, WeightFormat

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_SIZE, BLOCK = 896, 4864, 14, 2, 64, 16
PROBE_BYTES = 160 << 20  # far more than a last-level cache holds
PROBE_OPERATIONS = 200_000_000


@dataclass(slots=True)
class Case:
    """One kernel at one size.

    Attributes:
        name: What the table shows.
        run: Calls the kernel on the next of several inputs.
        reference: Calls the reference on one input.
        bytes: Read and written per call, weights and caches included.
        operations: Floating-point operations per call.
        limit: The probe for its arithmetic: float, pair or int8.
    """

    name: str
    run: Callable[[], object]
    reference: Callable[[], object]
    bytes: int
    operations: int
    limit: str


def linear_case(m: int, n: int, k: int, dtype: torch.dtype) -> Case:
    """Weights are taken in turn from 128 MiB and more, so that none is in the cache when few rows come."""
    size = n * k * dtype.itemsize
    weights = [LinearWeight.from_dense(torch.randn(n, k).to(dtype)) for _ in range(1 + (128 << 20) // size)]
    dense = weights[0].data
    for weight in weights:
        cpu.prepare(weight, release=True)
    x = torch.randn(m, k).to(dtype)
    turn = iter(range(1 << 62))
    return Case(
        f"linear {n}x{k} M={m} {str(dtype)[6:]}",
        lambda: cpu.linear(x, weights[next(turn) % len(weights)]),
        lambda: reference.linear(x, LinearWeight.from_dense(dense)),
        size + m * (n + k) * dtype.itemsize,
        2 * m * n * k,
        "pair" if dtype == torch.bfloat16 else "float",
    )


def quantized_case(m: int, n: int, k: int, format: WeightFormat, group_size: int) -> Case:
    """As `linear_case`, with int8 activations."""
    weight = cpu.quantize_weight(torch.randn(n, k), format, group_size)
    weight.int8_activations = True
    size = cpu.prepare(weight).data.nbytes
    weights = [weight, *(replace(weight, packed=None) for _ in range((128 << 20) // size))]
    for each in weights:
        cpu.prepare(each)
    x = torch.randn(m, k).bfloat16()
    turn = iter(range(1 << 62))
    group = "row" if group_size >= k else f"g{group_size}"
    return Case(
        f"linear {n}x{k} M={m} {format} {group}",
        lambda: cpu.linear(x, weights[next(turn) % len(weights)]),
        lambda: reference.linear(x, replace(weight, packed=None)),
        size + m * (n + k) * 2,
        2 * m * n * k,
        "int8",
    )


def attention_case(sequences: int, context: int, queries: int, dtype: torch.dtype) -> Case:
    """`sequences` sequences of `context` tokens, each computing its last `queries`."""
    blocks = -(-context // BLOCK)
    lengths = torch.full((sequences,), context, dtype=torch.int32)
    starts = torch.arange(sequences + 1, dtype=torch.int32) * queries
    positions = torch.arange(context - queries, context).repeat(sequences)
    tables = torch.randperm(sequences * blocks, dtype=torch.int32).view(sequences, blocks)
    meta = AttentionMetadata(positions, positions, starts, lengths, tables, BLOCK, queries, context)
    cache = torch.randn(2, sequences * blocks, KV_HEADS, BLOCK, HEAD_SIZE).to(dtype)
    q = torch.randn(sequences * queries, HEADS, HEAD_SIZE).to(dtype)
    pairs = sequences * sum(range(context - queries + 1, context + 1))
    return Case(
        f"attention {sequences}x{context} queries={queries} {str(dtype)[6:]}",
        lambda: cpu.paged_attention(q, cache, meta, 0.125),
        lambda: reference.paged_attention(q, cache, meta, 0.125),
        cache.nbytes + 2 * q.nbytes,
        4 * pairs * HEADS * HEAD_SIZE,
        "float",  # weights times values are fp32 multiply-adds
    )


def row_cases(rows: int, dtype: torch.dtype) -> list[Case]:
    """The ops that touch each value once."""
    x, residual = torch.randn(2, rows, HIDDEN).to(dtype)
    weight, gate = torch.randn(HIDDEN).to(dtype), torch.randn(rows, 2 * FFN).to(dtype)
    name = f"rows={rows} {str(dtype)[6:]}"
    return [
        Case(
            f"add_rms_norm {name}",
            lambda: cpu.add_rms_norm(x, residual, weight, 1e-6),
            lambda: reference.add_rms_norm(x, residual, weight, 1e-6),
            4 * x.nbytes,
            6 * x.numel(),
            "float",
        ),
        Case(
            f"silu_and_mul {name}",
            lambda: cpu.silu_and_mul(gate),
            lambda: reference.silu_and_mul(gate),
            gate.nbytes + gate.nbytes // 2,
            15 * gate.numel(),
            "float",
        ),
        rope_case(rows, dtype),
    ]


def rope_case(rows: int, dtype: torch.dtype) -> Case:
    fused = torch.randn(rows, HEADS + 2 * KV_HEADS, HEAD_SIZE).to(dtype)
    q, k, v = fused.split([HEADS, KV_HEADS, KV_HEADS], 1)
    slots = torch.arange(rows)
    empty = torch.zeros(1, dtype=torch.int32)
    meta = AttentionMetadata(slots, slots, empty, empty, empty[None], BLOCK, 1, rows)
    cache = torch.zeros(2, -(-rows // BLOCK), KV_HEADS, BLOCK, HEAD_SIZE, dtype=dtype)
    angles: Tensor = torch.randn(rows, HEAD_SIZE)
    return Case(
        f"rope_and_cache_write rows={rows} {str(dtype)[6:]}",
        lambda: cpu.rope_and_cache_write(q, k, v, angles, cache, meta),
        lambda: reference.rope_and_cache_write(q, k, v, angles, cache, meta),
        2 * fused.nbytes + angles.nbytes,
        3 * q.numel() + 3 * k.numel(),
        "float",
    )


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(case: Case, budget: float) -> str:
    """A row of the table: the best time, and which share of each limit that is."""
    best = slow = read = arithmetic = float("inf")
    case.run()
    end = time.perf_counter() + budget
    while time.perf_counter() < end:
        read = min(read, _C.probe("read", PROBE_BYTES))
        arithmetic = min(arithmetic, _C.probe(case.limit, PROBE_OPERATIONS))
        best = min(best, *(seconds(case.run) for _ in range(5)))
    for _ in range(3):
        slow = min(slow, seconds(case.reference))
    gbytes, gflops = case.bytes / best / 1e9, case.operations / best / 1e9
    of_read = gbytes / (PROBE_BYTES / read / 1e9)
    of_peak = gflops / (PROBE_OPERATIONS / arithmetic / 1e9)
    return (
        f"{case.name:44} {best * 1e6:9.1f} us {gbytes:6.1f} GB/s {of_read:5.0%} "
        f"{gflops:7.1f} GFLOP/s {of_peak:5.0%} {slow / best:7.1f}x"
    )


MATRICES = ((2 * FFN, HIDDEN), (HIDDEN, FFN))
ROWS = (1, 8, 32, 128, 512)


def quantized_cases() -> list[Callable[[], Case]]:
    cases: list[Callable[[], Case]] = []
    for kind, group in (("int4", 128), ("int4", 32), ("int8", 1 << 20)):
        for n, k in MATRICES:
            cases += [lambda m=m, n=n, k=k, f=kind, g=group: quantized_case(m, n, k, f, g) for m in ROWS]
    return cases


def all_cases(dtype: torch.dtype) -> list[Callable[[], Case]]:
    """Makers of cases, so that each one's memory is free before the next."""
    cases: list[Callable[[], Case]] = []
    for n, k in MATRICES:
        cases += [lambda m=m, n=n, k=k: linear_case(m, n, k, dtype) for m in ROWS]
    for sequences, context, queries in ((1, 2048, 1), (32, 192, 1), (1, 128, 128), (1, 2048, 512)):
        cases.append(lambda s=sequences, c=context, q=queries: attention_case(s, c, q, dtype))
    for rows in (1, 128):
        cases += [lambda r=rows, i=i: row_cases(r, dtype)[i] for i in range(3)]
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=cpu.num_threads())
    parser.add_argument("--seconds", type=float, default=0.5, help="per kernel")
    parser.add_argument("--isa", default="", help="plain, avx2 or avx512; by default the best there is")
    parser.add_argument("--only", default="", help="measure the kernels whose name contains this")
    arguments = parser.parse_args()
    _C.set_isa(arguments.isa)
    cpu.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    print(f"{cpu.isa()}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{'':44} {'best':>12} {'memory, of read':>17} {'arithmetic, of peak':>21} {'reference':>8}")
    with torch.inference_mode():
        for make in (*quantized_cases(), *all_cases(torch.bfloat16), *all_cases(torch.float32)):
            case = make()
            if arguments.only in case.name:
                print(measure(case, arguments.seconds), flush=True)


if __name__ == "__main__":
    main()
