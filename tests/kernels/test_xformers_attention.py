"""The xformers column: what it refuses, and, where xformers is installed, its results."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_inputs import assert_close, make_step, random
from quire.kernels import ops, reference, xformers_attention

LENGTHS = [1, 7, 300, 65, 16, 17, 40]
QUERIES = [1, 7, 60, 1, 1, 0, 3]

needs_xformers = pytest.mark.skipif(
    importlib.util.find_spec("xformers") is None, reason="xformers is not installed"
)


@pytest.fixture(autouse=True)
def _choose_afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(ops, "_logged", set())
    ops.reset()
    yield
    ops.reset()


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        ({}, {"window": 5}, "no windows"),
        ({}, {"softcap": 20.0}, "no soft-caps"),
        ({}, {"sinks": random(4, dtype=torch.float16)}, "no sinks"),
        ({"dtype": torch.float32}, {}, r"no kernel for torch.float32$"),
        ({"cache_dtype": torch.int8}, {}, "no kernel for torch.float16 over a cache in torch.int8"),
        ({"head_size": 12}, {}, "no kernel for heads of 12 channels"),
        ({"head_size": 264}, {}, "no kernel for heads of 264 channels"),
    ],
)
def test_refusals(change: dict[str, Any], options: dict[str, Any], reason: str) -> None:
    step = make_step([5], [1], **{"dtype": torch.float16, **change})
    with pytest.raises(ValueError, match=f"xformers: {reason}"):
        xformers_attention.paged_attention(step.q, step.kv_cache, step.meta, 0.25, **options)


def test_a_call_that_it_refuses_does_not_decide_for_calls_of_another_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models alternate layers with a window and without; the choice is remembered for each."""
    asked: list[int] = []

    def run(*_args: Any, window: int = 0, **_options: Any) -> Tensor:
        asked.append(window)
        return torch.empty(0)

    cell = ops.Cell("cpu", "xformers", "xformers_attention", xformers_attention.accepts)
    monkeypatch.setitem(ops.TABLE, "paged_attention", (cell,))
    monkeypatch.setattr(xformers_attention, "unavailable", lambda: None)
    monkeypatch.setattr(xformers_attention, "paged_attention", run)
    step = make_step([5], [1], dtype=torch.float16)
    for window in (5, 0, 5, 0):
        ops.paged_attention(step.q, step.kv_cache, step.meta, 0.25, window=window)
    assert asked == [0, 0]


def test_forcing_it_where_it_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_KERNELS", "paged_attention=xformers")
    step = make_step([5], [1], dtype=torch.float16)
    with pytest.raises(ops.KernelUnavailable, match="no such column on cpu"):
        ops.paged_attention(step.q, step.kv_cache, step.meta, 0.25)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: Any, scale: float) -> Tensor:
    """What the op computes, `[1, tokens, KV heads, heads of each, channels]`, by its own mask."""
    q, k, v = (x.float().permute(0, 2, 3, 1, 4) for x in (q, k, v))
    mask = attn_bias.materialize((1, 1, 1, q.shape[3], k.shape[3]))
    return (torch.softmax(q @ k.transpose(-1, -2) * scale + mask, -1) @ v).permute(0, 3, 1, 2, 4).half()


@needs_xformers
@pytest.mark.parametrize("heads", [(4, 2), (3, 3), (5, 1)], ids=str)
def test_it_gathers_and_masks_what_each_sequence_sees(
    heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the op replaced by plain torch, since it has none for CPUs."""
    from xformers.ops import fmha

    monkeypatch.setattr(fmha, "memory_efficient_attention_forward", masked_attention)
    step = make_step(LENGTHS, QUERIES, num_heads=heads[0], num_kv_heads=heads[1], dtype=torch.float16)
    actual = xformers_attention.paged_attention(step.q, step.kv_cache, step.meta, 0.25)
    assert_close(actual, reference.paged_attention(step.q, step.kv_cache, step.meta, 0.25))


@needs_xformers
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(4, 2, 64), (3, 3, 128), (5, 1, 32)], ids=str)
def test_against_the_reference(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    reason = xformers_attention.unavailable()
    if reason is not None:
        pytest.skip(reason)
    heads, kv_heads, head_size = shape
    step = make_step(
        LENGTHS, QUERIES, num_heads=heads, num_kv_heads=kv_heads, head_size=head_size, dtype=dtype
    )
    names = ("positions", "slot_mapping", "query_start", "seq_lens", "block_tables")
    meta = replace(step.meta, **{name: getattr(step.meta, name).cuda() for name in names})
    q, cache = step.q.cuda(), step.kv_cache.cuda()
    expected = reference.paged_attention(q, cache, meta, 0.25)
    actual = xformers_attention.paged_attention(q, cache, meta, 0.25)
    assert_close(actual, expected, 4 * torch.finfo(dtype).eps)
