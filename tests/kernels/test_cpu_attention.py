"""The C++ column: attention against the reference, and the same bits however a sequence is cut or batched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_inputs import CACHES, FLOATS, Step, assert_close, make_meta, make_step, random
from quire.kernels import cpu, reference

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None,
    reason="the C++ extension is not built: no compiler when quire was installed",
)

SHAPES = [  # heads, KV heads, head size, block size
    (14, 2, 64, 16),
    (4, 4, 8, 4),
    (6, 2, 80, 32),
    (3, 1, 33, 16),
    (2, 1, 256, 8),
    (20, 1, 16, 1),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"window": 5},
    {"window": 300, "softcap": 20.0},
    {"sinks": True},
    {"softcap": 0.5, "window": 1, "sinks": True},
]


def attend(function: Callable[..., Tensor], step: Step, options: dict[str, Any]) -> Tensor:
    arguments = dict(options)
    if arguments.get("sinks"):
        arguments["sinks"] = random(step.q.shape[1], dtype=torch.float32, seed=5)
    return function(step.q, step.kv_cache, step.meta, step.q.shape[2] ** -0.5, **arguments)


@functools.cache
def step_and_reference(
    shape: tuple[int, int, int, int], dtype: torch.dtype, cache_dtype: torch.dtype
) -> tuple[Step, list[Tensor]]:
    """A step of several lengths, and what the reference makes of it for each of the options."""
    heads, kv_heads, head_size, block_size = shape
    step = make_step(
        [1, 7, 300, 600, 64, 256, 257],
        [1, 7, 60, 1, 33, 0, 2],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        block_size=block_size,
        dtype=dtype,
        cache_dtype=cache_dtype,
    )
    return step, [attend(reference.paged_attention, step, options) for options in OPTIONS]


@pytest.mark.parametrize("cache_dtype", CACHES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_paged_attention(
    isa: str, shape: tuple[int, int, int, int], dtype: torch.dtype, cache_dtype: torch.dtype
) -> None:
    step, expected = step_and_reference(shape, dtype, cache_dtype)
    # bf16 dot products take weights in bf16, and int8 caches are widened to bf16: roundings that add up.
    tolerance = None
    if dtype == torch.bfloat16 and cache_dtype == torch.int8:
        tolerance = 2**-6
    elif dtype == cache_dtype == torch.bfloat16 and isa == "avx512_bf16":
        tolerance = 2**-7
    for options, wanted in zip(OPTIONS, expected, strict=True):
        assert_close(attend(cpu.paged_attention, step, options), wanted, tolerance)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("heads", [(7, 1), (2, 2)])
def test_attention_of_a_token_has_the_same_bits_decoded_prefilled_or_chunked(
    isa: str, options: dict[str, Any], dtype: torch.dtype, heads: tuple[int, int]
) -> None:
    length = 600
    whole = make_step([length], [length], num_heads=heads[0], num_kv_heads=heads[1], dtype=dtype)
    expected = attend(cpu.paged_attention, whole, options)
    for chunk in (1, 16, 100, 251):
        for begin in range(0, length, max(chunk, 85)):
            end = min(length, begin + chunk)
            meta = make_meta([end], [end - begin], 16, whole.meta.block_tables)
            part = Step(whole.q[begin:end], whole.k, whole.v, whole.kv_cache, meta)
            assert torch.equal(attend(cpu.paged_attention, part, options), expected[begin:end]), (
                chunk,
                begin,
            )


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_of_a_sequence_has_the_same_bits_in_any_batch(isa: str, dtype: torch.dtype) -> None:
    lengths, queries = [300, 20, 1000, 64, 513], [1, 20, 1, 33, 257]
    step = make_step(lengths, queries, dtype=dtype)
    whole = cpu.paged_attention(step.q, step.kv_cache, step.meta, 0.25)
    starts = step.meta.query_start.tolist()
    for s, (length, count) in enumerate(zip(lengths, queries, strict=True)):
        alone = make_meta([length], [count], 16, step.meta.block_tables[s : s + 1])
        rows = slice(starts[s], starts[s + 1])
        assert torch.equal(cpu.paged_attention(step.q[rows], step.kv_cache, alone, 0.25), whole[rows])


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_a_query_must_not_see_does_not_touch_it(isa: str, dtype: torch.dtype) -> None:
    """NaN in later tokens, behind the window, in other sequences and in unwritten slots stays there."""
    step = make_step([40, 600], [40, 300], dtype=dtype)
    clean = cpu.paged_attention(step.q, step.kv_cache, step.meta, 0.25, window=50)
    cache = step.kv_cache
    used = torch.zeros(cache.shape[1] * 16, dtype=torch.bool)
    table = step.meta.block_tables
    for s, (first, last) in enumerate(((0, 30), (300 - 49, 500))):
        for position in range(first, last):
            used[int(table[s, position // 16]) * 16 + position % 16] = True
    unused = ~used.view(cache.shape[1], 1, 16, 1).expand(cache.shape[1:])
    poisoned = cache.masked_fill(unused, torch.nan)
    y = cpu.paged_attention(step.q, poisoned, step.meta, 0.25, window=50)
    assert torch.equal(y[:30], clean[:30])
    assert torch.equal(y[40 : 40 + 200], clean[40 : 40 + 200])
    assert y[30:40].isnan().all()
    assert y[240:].isnan().all()


def test_attention_refuses_a_block_table_that_leaves_the_cache() -> None:
    step = make_step([40, 100], [1, 3])
    step.meta.block_tables[1, 2] = step.kv_cache.shape[1]
    with pytest.raises(IndexError, match="block"):
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0)
    cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0, window=20)  # that block is never read
    step.meta.seq_lens[1] = 10**6
    with pytest.raises(IndexError, match="table"):
        cpu.paged_attention(step.q, step.kv_cache, step.meta, 1.0)
