"""Random inputs for the tests of kernels; seeded, so that a failure can be repeated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quire.kernels import reference
from quire.kernels.types import AttentionMetadata

FLOATS = (torch.float32, torch.bfloat16)

CACHES = (*FLOATS, torch.int8)

# Relative to the largest value of the result. bf16 has 8 bits: one unit in the last place is 2^-8.
TOLERANCE = {torch.float32: 3e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normally distributed values."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(actual: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """Dtype and shape are equal, and no value differs by more than the dtype's rounding explains."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if not expected.numel():
        return
    limit = (tolerance or TOLERANCE[expected.dtype]) * max(1e-30, expected.abs().max().item())
    worst = (actual.double() - expected.double()).abs().max().item()
    assert worst <= limit, f"differs by {worst:.3g}, {limit:.3g} is allowed"


@dataclass(slots=True)
class Step:
    """A step of several sequences: what `rope_and_cache_write` and `paged_attention` take."""

    q: Tensor
    k: Tensor
    v: Tensor
    kv_cache: Tensor
    meta: AttentionMetadata


def make_meta(lengths: list[int], queries: list[int], block_size: int, tables: Tensor) -> AttentionMetadata:
    """Metadata of a step in which sequence s computes its last `queries[s]` of `lengths[s]` tokens."""
    positions = [torch.arange(n - m, n) for n, m in zip(lengths, queries, strict=True)]
    slots = [
        tables[s].long()[where // block_size] * block_size + where % block_size
        for s, where in enumerate(positions)
    ]
    return AttentionMetadata(
        positions=torch.cat(positions),
        slot_mapping=torch.cat(slots),
        query_start=torch.tensor([0, *torch.tensor(queries).cumsum(0).tolist()], dtype=torch.int32),
        seq_lens=torch.tensor(lengths, dtype=torch.int32),
        block_tables=tables,
        block_size=block_size,
        max_query_len=max(queries),
        max_seq_len=max(lengths),
    )


def make_tables(lengths: list[int], block_size: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """Block tables in shuffled order, padded with entries far out of range, and the number of blocks."""
    counts = [-(-n // block_size) for n in lengths]
    num_blocks = sum(counts) + 2
    free = torch.randperm(num_blocks, generator=generator).tolist()
    tables = torch.full((len(lengths), max(counts) + 1), 2**30, dtype=torch.int32)
    for s, count in enumerate(counts):
        tables[s, :count] = torch.tensor(free[:count], dtype=torch.int32)
        del free[:count]
    return tables, num_blocks


def make_step(
    lengths: list[int],
    queries: list[int],
    *,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_size: int = 16,
    block_size: int = 16,
    dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Step:
    """Random q, k, v as views of one fused projection, and a full cache of random values."""
    generator = torch.Generator().manual_seed(seed)
    tables, num_blocks = make_tables(lengths, block_size, generator)
    tokens, width = sum(queries), num_heads + 2 * num_kv_heads
    fused = (
        torch.randn(tokens, width * head_size, generator=generator).to(dtype).view(tokens, width, head_size)
    )
    q, k, v = fused.split([num_heads, num_kv_heads, num_kv_heads], 1)
    cache = torch.randn(2, num_blocks, num_kv_heads, block_size, head_size, generator=generator)
    return Step(
        q,
        k,
        v,
        reference.to_cache(cache, cache_dtype or dtype),
        make_meta(lengths, queries, block_size, tables),
    )
