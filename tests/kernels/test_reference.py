"""The reference against independent statements of the same: torch's own ops, transformers' modules, loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kernel_inputs import assert_close, make_meta, make_step, random
from quire.kernels import reference
from quire.kernels.types import LinearWeight

FLOAT = torch.float32


def gather(cache: Tensor, table: Tensor, length: int, block_size: int) -> tuple[Tensor, Tensor]:
    """Keys and values `[heads, length, size]` of one sequence, read one position at a time."""
    rows = [cache[:, int(table[p // block_size]), :, p % block_size] for p in range(length)]
    keys, values = torch.stack(rows, 2)
    return keys, values


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (5, 1)])
def test_attention_is_scaled_dot_product_attention(heads: int, kv_heads: int) -> None:
    lengths, queries = [1, 30, 50, 17], [1, 30, 5, 1]
    step = make_step(lengths, queries, num_heads=heads, num_kv_heads=kv_heads, block_size=8)
    out = reference.paged_attention(step.q, step.kv_cache, step.meta, 0.3)
    start = 0
    for s, (length, count) in enumerate(zip(lengths, queries, strict=True)):
        k, v = gather(step.kv_cache, step.meta.block_tables[s], length, 8)
        mask = torch.ones(count, length, dtype=torch.bool).tril(length - count)
        expected = F.scaled_dot_product_attention(
            step.q[start : start + count].transpose(0, 1), k, v, mask, scale=0.3, enable_gqa=True
        )
        assert_close(out[start : start + count], expected.transpose(0, 1))
        start += count


def test_window_softcap_and_sinks_follow_their_formulas() -> None:
    window, cap, scale = 7, 2.0, 0.4
    step = make_step([20], [9], num_heads=2, num_kv_heads=1)
    sinks = random(2, dtype=FLOAT, seed=3)
    out = reference.paged_attention(step.q, step.kv_cache, step.meta, scale, window, cap, sinks)
    k, v = gather(step.kv_cache, step.meta.block_tables[0], 20, 16)
    for row, position in enumerate(range(11, 20)):
        for head in range(2):
            seen = range(max(0, position - window + 1), position + 1)
            scores = [cap * math.tanh(float(step.q[row, head] @ k[0, j]) * scale / cap) for j in seen]
            total = sum(math.exp(s) for s in scores) + math.exp(float(sinks[head]))
            expected = sum(math.exp(s) / total * v[0, j] for s, j in zip(scores, seen, strict=True))
            assert isinstance(expected, Tensor)
            torch.testing.assert_close(out[row, head], expected, rtol=1e-5, atol=1e-6)


def test_what_is_written_is_what_is_read() -> None:
    """Keys written chunk by chunk and whole make the same cache, and slots nobody named keep their values."""
    whole = make_step([40], [40], block_size=8)
    cos_sin = random(64, 16, dtype=FLOAT)
    caches = [whole.kv_cache.clone() for _ in range(2)]
    q = reference.rope_and_cache_write(whole.q, whole.k, whole.v, cos_sin, caches[0], whole.meta)
    for begin, end in ((0, 13), (13, 14), (14, 40)):
        meta = make_meta([end], [end - begin], 8, whole.meta.block_tables)
        part = reference.rope_and_cache_write(
            whole.q[begin:end], whole.k[begin:end], whole.v[begin:end], cos_sin, caches[1], meta
        )
        assert torch.equal(part, q[begin:end])
    assert torch.equal(caches[0], caches[1])
    used = whole.meta.block_tables[0, :5].long()
    unused = torch.ones(caches[0].shape[1], dtype=torch.bool)
    unused[used] = False
    assert torch.equal(caches[0][:, unused], whole.kv_cache[:, unused])
    _, values = gather(caches[0], whole.meta.block_tables[0], 40, 8)
    assert torch.equal(values, whole.v.transpose(0, 1))


def test_rotation_turns_pairs_by_their_angle() -> None:
    """Channels (i, i + half) are a complex number, multiplied by exp(i angle); the rest stay."""
    x = random(5, 3, 20, dtype=FLOAT)
    angle = random(5, 8, dtype=FLOAT, seed=1)
    out = reference.rotate(x, angle.cos(), angle.sin())
    turned = torch.complex(x[..., :8], x[..., 8:16]) * torch.polar(torch.ones(5, 1, 8), angle[:, None])
    torch.testing.assert_close(out[..., :8], turned.real)
    torch.testing.assert_close(out[..., 8:16], turned.imag)
    assert torch.equal(out[..., 16:], x[..., 16:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_and_gate_are_those_of_transformers(dtype: torch.dtype) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

    x, weight = random(6, 48, dtype=dtype), random(48, dtype=dtype, seed=1)
    norm = LlamaRMSNorm(48, eps=1e-5).to(dtype)
    norm.weight.data.copy_(weight)
    assert torch.equal(reference.rms_norm(x, weight, 1e-5), norm(x).detach())
    residual = random(6, 48, dtype=dtype, seed=2)
    normed, total = reference.add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(total, x + residual)
    assert torch.equal(normed, norm(x + residual).detach())

    mlp = LlamaMLP(LlamaConfig(hidden_size=48, intermediate_size=20, num_attention_heads=4)).to(dtype)
    gate_up = LinearWeight.from_dense(torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)).detach())
    down = LinearWeight.from_dense(mlp.down_proj.weight.detach())
    hidden = reference.silu_and_mul(reference.linear(x, gate_up))
    assert_close(reference.linear(hidden, down), mlp(x).detach())


def test_gelu_and_mul() -> None:
    x = random(4, 10, dtype=FLOAT)
    gate, up = x[:, :5].double(), x[:, 5:].double()
    exact = 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))) * up
    curve = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) * up
    assert_close(reference.gelu_and_mul(x, "none"), exact.float())
    assert_close(reference.gelu_and_mul(x), curve.float())


@pytest.mark.parametrize("zeros", [False, True])
def test_quantised_weights_are_dequantised_by_their_formula(zeros: bool) -> None:
    n, k, group = 3, 16, 8
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(n, k // group, generator=generator) + 0.1
    offsets = torch.randint(0, 16, (n, k // group), generator=generator) if zeros else None

    q4 = torch.randint(0, 16, (n, k), generator=generator, dtype=torch.uint8)
    packed = q4[:, 0::2] | (q4[:, 1::2] << 4)
    int4 = LinearWeight("int4", n, k, packed, scales, offsets, group)
    q8 = torch.randint(-128, 128, (n, k), generator=generator, dtype=torch.int8)
    int8 = LinearWeight("int8", n, k, q8, scales, offsets, group)
    for weight, q, default in ((int4, q4, 8), (int8, q8, 0)):
        dense = reference.dequantize(weight)
        for row in range(n):
            for column in range(k):
                g = column // group
                zero = int(offsets[row, g]) if offsets is not None else default
                expected = (int(q[row, column]) - zero) * float(scales[row, g])
                assert dense[row, column].item() == pytest.approx(expected, rel=1e-6)
        x = random(2, k, dtype=FLOAT)
        assert_close(reference.linear(x, weight), x @ dense.T)


@pytest.mark.parametrize("renormalize", [False, True])
def test_moe_sums_each_tokens_experts(renormalize: bool) -> None:
    tokens, hidden, inner, experts, top_k = 5, 8, 6, 4, 2
    x, logits = random(tokens, hidden, dtype=FLOAT), random(tokens, experts, dtype=FLOAT, seed=1)
    gate_up, down = (
        random(experts, 2 * inner, hidden, dtype=FLOAT),
        random(experts, hidden, inner, dtype=FLOAT),
    )
    out = reference.moe(x, logits, gate_up, down, top_k, renormalize)
    for t in range(tokens):
        chances = torch.softmax(logits[t], -1)
        chosen = chances.argsort(descending=True)[:top_k]
        total = chances[chosen].sum() if renormalize else 1.0
        expected = torch.zeros(hidden)
        for e in chosen.tolist():
            gate, up = (gate_up[e] @ x[t]).chunk(2)
            expected += chances[e] / total * (down[e] @ (F.silu(gate) * up))
        torch.testing.assert_close(out[t], expected, rtol=1e-5, atol=1e-5)


def test_a_float8_cache_keeps_what_is_in_its_range_and_ends_there() -> None:
    x = torch.tensor([0.0, 448.0, 1e4, -torch.inf, 2**-9, torch.nan, 17.0])
    rows = reference.to_cache(x, torch.float8_e4m3fn)
    assert rows.dtype == torch.float8_e4m3fn
    expected = torch.tensor([0.0, 448.0, 448.0, -448.0, 2**-9, torch.nan, 16.0])
    assert torch.equal(reference.from_cache(rows).nan_to_num(-1.0), expected.nan_to_num(-1.0))


def test_a_float8_cache_is_written_and_read() -> None:
    step = make_step([5, 40, 17], [5, 1, 9], cache_dtype=torch.float8_e4m3fn)
    cos_sin = torch.cat((torch.ones(64, 8), torch.zeros(64, 8)), 1)
    cache = step.kv_cache
    reference.rope_and_cache_write(step.q, step.k, step.v, cos_sin, cache, step.meta)
    block, offset = step.meta.slot_mapping // 16, step.meta.slot_mapping % 16
    for written, given in zip(cache, (step.k, step.v), strict=True):
        assert torch.equal(written[block, :, offset].float(), given.to(torch.float8_e4m3fn).float())
    assert torch.equal(
        reference.paged_attention(step.q, cache, step.meta, 0.25),
        reference.paged_attention(step.q, cache.float(), step.meta, 0.25),
    )
