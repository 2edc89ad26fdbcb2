"""Each kernel as `gpu.py` measures it: called through `ops`, against the limits of memory and arithmetic."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quire.kernels import ops
from quire.kernels.types import AttentionMetadata, LinearWeight

BLOCK = 16
CALLS_PER_GRAPH = 20


@dataclass(frozen=True)
class Sizes:
    """What is measured: a real GPU's, or a dry run's."""

    hidden: int = 4096
    ffn: int = 14336
    heads: int = 32
    kv_heads: int = 8
    head_size: int = 128
    vocab: int = 128256
    rows: tuple[int, ...] = (1, 8, 32, 128, 256, 2048)
    decodes: tuple[tuple[int, int], ...] = ((1, 1024), (32, 1024), (256, 1024), (8, 16384))
    prefills: tuple[int, ...] = (1024, 8192)
    probe_bytes: int = 1 << 30
    probe_size: int = 8192
    cache_bytes: int = 256 << 20


DRY = Sizes(64, 96, 4, 2, 16, 512, (1, 3), ((2, 20),), (20,), 1 << 16, 64, 1 << 12)


@dataclass(frozen=True)
class Limits:
    """What this device reaches at best, measured.

    Attributes:
        bandwidth: Bytes per second that a copy reads and writes.
        flops: bf16 operations per second of a large matrix product.
    """

    bandwidth: float
    flops: float

    def seconds(self, num_bytes: float, operations: float) -> float:
        """The shortest time for so much."""
        return max(num_bytes / self.bandwidth, operations / self.flops)


@dataclass
class Case:
    """One kernel at one size.

    Attributes:
        op: The op, of `ops`.
        size: Of its inputs, in words.
        calls: Called in turn, so that weights are not found in the device's cache.
        bytes: Read and written per call.
        operations: Floating-point operations per call.
    """

    op: str
    size: str
    calls: list[Callable[[], object]]
    bytes: float
    operations: float


def synchronize(device: torch.device) -> None:
    """Waits for the device."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)


def seconds_per_call(calls: list[Callable[[], object]], device: torch.device, budget: float) -> float:
    """The best of several rounds; on a GPU without the host's part, where the calls can be captured."""
    num = CALLS_PER_GRAPH if device.type != "cpu" else 1
    turn = iter(range(1 << 62))

    def run() -> None:
        for _ in range(num):
            calls[next(turn) % len(calls)]()

    for call in calls:
        call()
    launch: Callable[[], object] = run
    if device.type != "cpu":
        synchronize(device)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                run()
            launch = graph.replay
        except RuntimeError as error:  # a reference that reads lengths on the host
            print(f"    (timed with the host's part: {str(error).splitlines()[0]})")
    best, end = float("inf"), time.perf_counter() + budget
    while True:
        synchronize(device)
        begin = time.perf_counter()
        launch()
        synchronize(device)
        best = min(best, (time.perf_counter() - begin) / num)
        if time.perf_counter() > end:
            return best


def measure_limits(device: torch.device, dtype: torch.dtype, sizes: Sizes, budget: float) -> Limits:
    """Copy bandwidth and the peak of a matrix product."""
    source = torch.empty(sizes.probe_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = seconds_per_call([lambda: target.copy_(source)], device, budget)
    a, b = torch.randn(2, sizes.probe_size, sizes.probe_size, device=device).to(dtype)
    product = seconds_per_call([lambda: a @ b], device, budget)
    return Limits(2 * sizes.probe_bytes / copy, 2 * sizes.probe_size**3 / product)


def random(*shape: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    return (torch.randn(*shape, device=device) * 0.02).to(dtype)


def linear_cases(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    """The matrices of a layer, as floats and in groups of 128 (or less) as int4."""
    qkv = (sizes.heads + 2 * sizes.kv_heads) * sizes.head_size
    shapes = ((qkv, sizes.hidden), (2 * sizes.ffn, sizes.hidden), (sizes.hidden, sizes.ffn))
    for n, k in shapes:
        dense = random(n, k, device=device, dtype=dtype)
        int4 = ops.quantize_weight(dense, "int4", min(128, k // 8 * 8))
        for weight in (LinearWeight.from_dense(dense), int4):
            scales = 0 if weight.scales is None else weight.scales.nbytes
            size = weight.data.nbytes + scales
            copies = [replace(weight, data=weight.data.clone()) for _ in range(sizes.cache_bytes // size)]
            for m in sizes.rows:
                x = random(m, k, device=device, dtype=dtype)
                calls = [lambda w=w, x=x: ops.linear(x, w) for w in [weight, *copies]]
                moved = size + m * (n + k) * dtype.itemsize
                yield Case("linear", f"{n} x {k} {weight.format}, {m} rows", calls, moved, 2.0 * m * n * k)


def attention_case(
    device: torch.device, dtype: torch.dtype, sizes: Sizes, sequences: int, context: int, queries: int
) -> Case:
    """`sequences` sequences of `context` tokens, each computing its last `queries`."""
    blocks = -(-context // BLOCK)
    tables = torch.randperm(sequences * blocks, device=device).to(torch.int32).view(sequences, blocks)
    positions = torch.arange(context - queries, context, device=device).repeat(sequences)
    meta = AttentionMetadata(
        positions=positions,
        slot_mapping=positions,
        query_start=torch.arange(sequences + 1, dtype=torch.int32, device=device) * queries,
        seq_lens=torch.full((sequences,), context, dtype=torch.int32, device=device),
        block_tables=tables,
        block_size=BLOCK,
        max_query_len=queries,
        max_seq_len=context,
    )
    cache = random(2, sequences * blocks, sizes.kv_heads, BLOCK, sizes.head_size, device=device, dtype=dtype)
    q = random(sequences * queries, sizes.heads, sizes.head_size, device=device, dtype=dtype)
    pairs = sequences * sum(range(context - queries + 1, context + 1))
    kind = f"{sequences} x {context} tokens, {'decoding' if queries == 1 else 'prefill'}"
    scale = sizes.head_size**-0.5
    return Case(
        "paged_attention",
        kind,
        [lambda: ops.paged_attention(q, cache, meta, scale)],
        cache.nbytes + 2 * q.nbytes,
        4.0 * pairs * sizes.heads * sizes.head_size,
    )


def row_cases(device: torch.device, dtype: torch.dtype, sizes: Sizes, rows: int) -> Iterator[Case]:
    """The ops that touch each value once."""
    size = f"{rows} rows"
    x, residual = random(2, rows, sizes.hidden, device=device, dtype=dtype)
    weight = random(sizes.hidden, device=device, dtype=dtype)
    yield Case("add_rms_norm", size, [lambda: ops.add_rms_norm(x, residual, weight, 1e-5)], 4.0 * x.nbytes, 0)
    gate = random(rows, 2 * sizes.ffn, device=device, dtype=dtype)
    yield Case("silu_and_mul", size, [lambda: ops.silu_and_mul(gate)], 1.5 * gate.nbytes, 0)
    heads = (sizes.heads, sizes.kv_heads, sizes.kv_heads)
    fused = random(rows, sum(heads), sizes.head_size, device=device, dtype=dtype)
    q, k, v = fused.split(heads, 1)
    slots = torch.arange(rows, device=device)
    empty = torch.zeros(1, dtype=torch.int32, device=device)
    meta = AttentionMetadata(slots, slots, empty, empty, empty[None], BLOCK, 1, rows)
    blocks = -(-rows // BLOCK)
    cache = random(2, blocks, sizes.kv_heads, BLOCK, sizes.head_size, device=device, dtype=dtype)
    angles = torch.randn(rows, sizes.head_size, device=device)
    call = lambda: ops.rope_and_cache_write(q, k, v, angles, cache, meta)  # noqa: E731
    yield Case("rope_and_cache_write", size, [call], 2.0 * fused.nbytes + angles.nbytes, 0)
    logits = torch.randn(min(rows, 256), sizes.vocab, device=device)
    yield Case("argmax", f"{len(logits)} rows", [lambda: ops.argmax(logits)], logits.nbytes, 0)


def all_cases(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Iterator[Case]:
    """Every case; the memory of one is free before the next is made."""
    yield from linear_cases(device, dtype, sizes)
    for sequences, context in sizes.decodes:
        yield attention_case(device, dtype, sizes, sequences, context, 1)
    for length in sizes.prefills:
        yield attention_case(device, dtype, sizes, 1, length, length)
    for rows in sizes.rows[-2:]:
        yield from row_cases(device, dtype, sizes, rows)
