"""The C++ column: what encoders add. Against the reference, and the same bits in any company."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from kernel_inputs import FLOATS, assert_close, random
from quire.kernels import cpu, ops, reference
from quire.kernels.types import PackedSequences

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None,
    reason="the C++ extension is not built: no compiler when quire was installed",
)

SIZES = [1, 2, 15, 17, 64, 1025]
SHAPES = [(4, 4, 8), (6, 2, 80), (3, 1, 33), (2, 2, 64)]  # heads, KV heads, head size
LENGTHS = [1, 7, 0, 300, 64, 256, 257, 33]


def packed(lengths: list[int]) -> PackedSequences:
    return PackedSequences(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths))


def heads(
    lengths: list[int], shape: tuple[int, int, int], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values that are views of one matrix, as a fused projection gives them."""
    num_heads, num_kv_heads, head_size = shape
    parts = (num_heads, num_kv_heads, num_kv_heads)
    both = random(sum(lengths), sum(parts) * head_size, dtype=dtype)
    q, k, v = both.view(sum(lengths), -1, head_size).split_with_sizes(parts, 1)
    return q, k, v


def test_they_are_what_runs() -> None:
    x, weight = random(3, 8, dtype=torch.float32), random(8, dtype=torch.float32, seed=1)
    q, k, v = heads([3], (2, 2, 4), torch.float32)
    assert ops.layer_norm.implementation(x, weight, weight, 1e-5) is cpu.layer_norm
    assert ops.add_layer_norm.implementation(x, x, weight, None, 1e-5) is cpu.add_layer_norm
    assert ops.gelu.implementation(x) is cpu.gelu
    assert ops.packed_attention.implementation(q, k, v, packed([3]), 0.5) is cpu.packed_attention


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES)
def test_layer_norm(isa: str, size: int, dtype: torch.dtype) -> None:
    x = 3 + 2 * random(9, size + 5, dtype=dtype)[:, 2 : size + 2]
    weight, bias = (random(size, dtype=dtype, seed=seed) for seed in (1, 2))
    residual = random(9, size, dtype=dtype, seed=3)
    for given in (bias, None):
        exact = reference.layer_norm(x.double().float(), weight.float(), given, 1e-5).to(dtype)
        # Two values that differ little lose what they have in common.
        tolerance = None if size > 2 else 1e-3
        assert_close(cpu.layer_norm(x, weight, given, 1e-5), exact, tolerance)
        normed, total = cpu.add_layer_norm(x, residual, weight, given, 1e-5)
        assert torch.equal(total, x + residual)
        assert torch.equal(normed, cpu.layer_norm(total, weight, given, 1e-5))


def test_layer_norm_refuses_what_does_not_fit() -> None:
    x = random(2, 8, dtype=torch.float32)
    for weight, bias in ((x[0, :7], None), (x[0], x[1, :7])):
        with pytest.raises(ValueError, match="8 channels"):
            cpu.layer_norm(x, weight, bias, 1e-5)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_gelu(isa: str, dtype: torch.dtype, approximate: str) -> None:
    x = torch.cat((torch.linspace(-12, 12, 4001), torch.tensor([0.0, -0.0, 1e-30, -90.0, 1e6, -1e6])))
    x = x.to(dtype).view(1, -1)
    exact = torch.nn.functional.gelu(x.double(), approximate=approximate)
    error = (cpu.gelu(x, approximate).double() - exact).abs()
    limit = 4e-7 if dtype == torch.float32 else 2.0**-8
    assert bool((error <= limit * x.double().abs().clamp(min=1e-30)).all())
    gate = random(5, 34, dtype=dtype)
    expected = reference.gelu_and_mul(gate, approximate)
    assert_close(cpu.gelu_and_mul(gate, approximate), expected, 2.0**-7 if dtype == torch.bfloat16 else None)
    poisoned = cpu.gelu(
        torch.tensor([[float("nan"), 1.0, float("inf"), -float("inf")]], dtype=dtype), approximate
    )
    assert poisoned[0, 0].isnan()
    assert poisoned[0, 2] == float("inf")


@pytest.mark.parametrize("window", [0, 5, 299])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_attention(isa: str, shape: tuple[int, int, int], dtype: torch.dtype, window: int) -> None:
    q, k, v = heads(LENGTHS, shape, dtype)
    arguments: tuple[Any, ...] = (packed(LENGTHS), shape[2] ** -0.5, window)
    exact = reference.packed_attention(q, k, v, *arguments)
    # Weights are rounded to bf16, too.
    tolerance = 2.0**-6 if dtype == torch.bfloat16 else 1e-5
    assert_close(cpu.packed_attention(q, k, v, *arguments), exact, tolerance)


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_has_the_same_bits_in_any_company(isa: str, dtype: torch.dtype, window: int) -> None:
    shape = (12, 12, 32)
    q, k, v = heads(LENGTHS, shape, dtype)
    whole = cpu.packed_attention(q, k, v, packed(LENGTHS), 0.2, window)
    starts = [0, *accumulate(LENGTHS)]
    threads = cpu.num_threads()
    for begin, end in pairwise(starts):
        if begin < end:
            for count in (1, threads):
                cpu.set_num_threads(count)
                part = (q[begin:end], k[begin:end], v[begin:end])
                alone = cpu.packed_attention(*part, packed([end - begin]), 0.2, window)
                assert torch.equal(alone, whole[begin:end])
    cpu.set_num_threads(threads)


def test_attention_takes_keys_and_values_from_anywhere() -> None:
    q, k, v = heads([5, 9], (2, 2, 16), torch.float32)
    expected = cpu.packed_attention(q, k, v, packed([5, 9]), 0.25)
    assert torch.equal(cpu.packed_attention(q, k.clone(), v.clone(), packed([5, 9]), 0.25), expected)
    flipped = v.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(cpu.packed_attention(q, k, flipped, packed([5, 9]), 0.25), expected)


def test_attention_refuses_sequences_that_are_not_the_tokens() -> None:
    q, k, v = heads([5, 9], (2, 2, 16), torch.float32)
    for starts in ([0, 5, 13], [1, 5, 14], [0, 15, 14]):
        sequences = PackedSequences(torch.tensor(starts, dtype=torch.int32), 9)
        with pytest.raises(IndexError):
            cpu.packed_attention(q, k, v, sequences, 0.25)
    with pytest.raises(ValueError, match="do not fit"):
        cpu.packed_attention(q, k[:13], v[:13], packed([5, 9]), 0.25)


def test_a_nan_stays_in_its_sequence() -> None:
    q, k, v = heads([5, 9], (2, 2, 16), torch.float32)
    clean = cpu.packed_attention(q, k, v, packed([5, 9]), 0.25)
    k[2] = float("nan")
    out = cpu.packed_attention(q, k, v, packed([5, 9]), 0.25)
    assert out[:5].isnan().all()
    assert torch.equal(out[5:], clean[5:])
