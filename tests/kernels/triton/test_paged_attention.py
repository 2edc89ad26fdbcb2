"""Paged attention in Triton against the reference, and the same bits however a sequence is cut or batched."""

from __future__ import annotations

import random as random_numbers
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_inputs import Step, assert_close, make_meta, make_step, random
from quire.kernels import reference

FLOAT8 = torch.float8_e4m3fn


def on(device: torch.device, step: Step) -> Step:
    """The step's tensors on a device."""
    meta = step.meta
    moved = {
        name: getattr(meta, name).to(device)
        for name in ("positions", "slot_mapping", "query_start", "seq_lens", "block_tables")
    }
    tensors = (tensor.to(device) for tensor in (step.q, step.k, step.v, step.kv_cache))
    return Step(*tensors, meta=replace(meta, **moved))


def attend(step: Step, **options: Any) -> Tensor:
    from quire.kernels.triton.paged_attention import paged_attention

    return paged_attention(step.q, step.kv_cache, step.meta, step.q.shape[2] ** -0.5, **options)


def check(step: Step, tolerance: float | None = None, **options: Any) -> None:
    expected = reference.paged_attention(step.q, step.kv_cache, step.meta, step.q.shape[2] ** -0.5, **options)
    assert_close(attend(step, **options), expected, tolerance)


def part(step: Step, begin: int, end: int) -> Step:
    """The step that computes tokens `begin..end` of the one sequence that a step computes whole."""
    meta = make_meta([end], [end - begin], step.meta.block_size, step.meta.block_tables.cpu())
    return on(step.q.device, Step(step.q[begin:end], step.k, step.v, step.kv_cache, meta))


# Lengths around the edges of blocks, of tiles of 64 keys and of chunks of 512, decoded and computed in part.
LENGTHS = [1, 7, 64, 65, 512, 513, 600, 130, 40]
QUERIES = [1, 7, 1, 60, 1, 1, 3, 33, 0]


@pytest.mark.parametrize(
    "shape",  # heads, KV heads, head size, block size
    [(4, 2, 64, 16), (14, 2, 64, 16), (3, 3, 80, 32), (2, 1, 96, 1), (20, 1, 16, 8), (1, 1, 256, 16)],
    ids=str,
)
def test_shapes(shape: tuple[int, int, int, int], device: torch.device) -> None:
    heads, kv_heads, head_size, block_size = shape
    step = make_step(
        LENGTHS[2:6],
        QUERIES[2:6],
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_size=head_size,
        block_size=block_size,
    )
    check(on(device, step))


@pytest.mark.parametrize("options", [{}, {"window": 5}, {"window": 100, "softcap": 20.0}], ids=str)
def test_ragged_steps(options: dict[str, Any], dtype: torch.dtype, device: torch.device) -> None:
    check(on(device, make_step(LENGTHS, QUERIES, dtype=dtype)), **options)


@pytest.mark.parametrize("window", [0, 1, 520])
def test_sinks(window: int, device: torch.device) -> None:
    sinks = random(4, dtype=torch.float32, seed=5).to(device)
    # 520 keys up to the 1031st lie in three chunks.
    check(on(device, make_step([1031, 900, 9], [1, 5, 1])), sinks=sinks, window=window)


def test_more_chunks_than_are_loaded_together(device: torch.device) -> None:
    check(on(device, make_step([4700, 4097], [1, 1], num_heads=2, num_kv_heads=1)))


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8, FLOAT8])
def test_caches(cache_dtype: torch.dtype, dtype: torch.dtype, device: torch.device) -> None:
    step = on(device, make_step([70, 600, 9], [9, 1, 1], dtype=dtype, cache_dtype=cache_dtype))
    # Weights are rounded to the dtype of q before the product with values, as is the result after it.
    check(step, tolerance=None if dtype == torch.float32 else 2 * torch.finfo(dtype).eps)


def test_float8_values_are_widened_exactly(device: torch.device) -> None:
    """All 256 bit patterns as values of the only key of a sequence, whose weight is one."""
    step = make_step([1], [1], num_heads=1, num_kv_heads=1, head_size=256)
    bits = torch.arange(256, dtype=torch.uint8)
    step.kv_cache = torch.zeros(step.kv_cache.shape, dtype=torch.uint8)
    step.kv_cache[1, :, 0] = bits
    step.kv_cache = step.kv_cache.view(FLOAT8)
    expected = bits.view(FLOAT8).float()
    assert torch.equal(attend(on(device, step)).cpu().flatten().nan_to_num(1e9), expected.nan_to_num(1e9))


def test_random_steps(device: torch.device) -> None:
    seed = random_numbers.randrange(2**32)
    print(f"seed {seed}")
    choose = random_numbers.Random(seed)
    for _ in range(4):
        lengths = [choose.choice((1, 15, 17, 100, 333, 530)) for _ in range(choose.randint(1, 4))]
        kv_heads = choose.choice((1, 2))
        step = make_step(
            lengths,
            [choose.choice((0, 1, choose.randint(1, min(n, 40)))) for n in lengths[1:]] + [1],
            num_heads=kv_heads * choose.choice((1, 3, 8)),
            num_kv_heads=kv_heads,
            head_size=choose.choice((16, 24, 64)),
            block_size=choose.choice((1, 3, 16, 128)),
            seed=seed,
        )
        check(on(device, step), window=choose.choice((0, 0, 1, 64, 200)))


def test_tokens_without_rows_and_empty_steps(device: torch.device) -> None:
    step = on(device, make_step([5, 9], [0, 0]))
    assert attend(step).shape == (0, 4, 16)
    step.meta = replace(step.meta, query_start=step.meta.query_start[:1], seq_lens=step.meta.seq_lens[:0])
    assert attend(step).shape == (0, 4, 16)


@pytest.mark.parametrize("window", [0, 90])
@pytest.mark.parametrize("heads", [(2, 1), (1, 1)], ids=str)
def test_a_token_has_the_same_bits_decoded_prefilled_or_chunked(
    heads: tuple[int, int], window: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Chunks that begin and end around the edges of tiles of queries and of keys."""
    length = 560
    whole = on(device, make_step([length], [length], num_heads=heads[0], num_kv_heads=heads[1], dtype=dtype))
    expected = attend(whole, window=window)
    for begin, end in ((0, 1), (0, 64), (30, 95), (63, 65), (300, 301), (511, 512), (500, 560), (559, 560)):
        assert torch.equal(attend(part(whole, begin, end), window=window), expected[begin:end]), (begin, end)


def test_a_sequence_has_the_same_bits_in_any_batch(dtype: torch.dtype, device: torch.device) -> None:
    lengths, queries = [300, 20, 1100, 64, 513, 77], [1, 20, 1, 33, 1, 76]
    step = on(device, make_step(lengths, queries, num_heads=6, dtype=dtype))
    together = attend(step)
    starts = step.meta.query_start.tolist()
    for s, (length, count) in enumerate(zip(lengths, queries, strict=True)):
        alone = make_meta([length], [count], 16, step.meta.block_tables[s : s + 1].cpu())
        rows = slice(starts[s], starts[s + 1])
        one = on(device, Step(step.q[rows], step.k, step.v, step.kv_cache, alone))
        assert torch.equal(attend(one), together[rows])


def test_bits_do_not_depend_on_the_length_that_a_graph_was_captured_for(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on how many programs share the chunks, nor on how many sequences share the workspace."""
    from quire.kernels.triton import paged_decode

    step = on(device, make_step([1300, 40, 513], [1, 1, 1]))
    expected = attend(step)
    step.meta = replace(step.meta, max_seq_len=5000)
    assert torch.equal(attend(step), expected)
    monkeypatch.setattr(paged_decode, "TARGET_PROGRAMS", 1)
    monkeypatch.setattr(paged_decode, "WORKSPACE_BYTES", 1)
    assert torch.equal(attend(step), expected)


@pytest.mark.parametrize("block_size", [1, 64])
def test_bits_do_not_depend_on_blocks(block_size: int, device: torch.device) -> None:
    step = on(device, make_step([560], [40]))
    order = step.meta.block_tables[0, :35].long()
    tokens = step.kv_cache[:, order].transpose(1, 2).flatten(2, 3)  # [2, heads, tokens, size]
    blocks = torch.nn.functional.pad(tokens, (0, 0, 0, 16)).unflatten(2, (-1, block_size)).transpose(1, 2)
    table = torch.arange(blocks.shape[1], dtype=torch.int32, device=device)[None]
    other = replace(step.meta, block_size=block_size, block_tables=table)
    moved = Step(step.q, step.k, step.v, blocks.contiguous(), other)
    assert torch.equal(attend(moved), attend(step))


def test_what_a_sequence_must_not_see_does_not_touch_it(device: torch.device) -> None:
    """NaN in other sequences, in unwritten slots and before the window of all of its queries."""
    lengths, queries, window = [40, 600, 70], [40, 3, 1], 50
    step = on(device, make_step(lengths, queries))
    expected = attend(step, window=window)
    used = torch.zeros(step.kv_cache.shape[1] * 16, dtype=torch.bool)
    for s, length in enumerate(lengths):
        for position in range(max(0, length - queries[s] - window + 1), length):
            used[int(step.meta.block_tables[s, position // 16]) * 16 + position % 16] = True
    hidden = ~used.view(-1, 1, 16, 1).expand(step.kv_cache.shape[1:]).to(device)
    step.kv_cache = step.kv_cache.masked_fill(hidden, torch.nan)
    assert torch.equal(attend(step, window=window), expected)
    step.kv_cache[1, step.meta.block_tables[2, 4]] = torch.nan  # a token of the last sequence
    y = attend(step, window=window)
    assert torch.equal(y[:43], expected[:43])
    assert y[43].isnan().all()


def test_strided_queries(device: torch.device) -> None:
    step = on(device, make_step([70, 9], [5, 1]))
    expected = attend(step)
    step.q = step.q.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(attend(step), expected)


def test_refusals(device: torch.device) -> None:
    from quire.kernels.triton.paged_attention import paged_attention

    step = on(device, make_step([5], [1]))
    with pytest.raises(ValueError, match=r"scale must be above zero, got -0.5"):
        paged_attention(step.q, step.kv_cache, step.meta, -0.5)
    with pytest.raises(ValueError, match="does not fit 4 heads of 16 channels in blocks of 8"):
        paged_attention(step.q, step.kv_cache, replace(step.meta, block_size=8), 1.0)
    with pytest.raises(ValueError, match=r"sinks must be contiguous, \[4\]"):
        paged_attention(step.q, step.kv_cache, step.meta, 1.0, sinks=torch.zeros(3, device=device))
