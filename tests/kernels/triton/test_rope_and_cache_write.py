"""Norm, rotation and cache write in one Triton kernel against the reference."""

from __future__ import annotations

import random as python_random

import pytest
import torch
from torch import Tensor

from kernel_inputs import TOLERANCE, Step, assert_close, make_step, random
from quire.kernels import reference

# The interpreter cuts fp32 off to bf16, where a GPU rounds.
CACHES = (torch.float32, torch.float16, torch.int8, *([torch.bfloat16] if torch.cuda.is_available() else []))

Result = tuple[Tensor, Tensor]


def on(step: Step, device: torch.device) -> Step:
    """The step with its inputs, still views of one tensor, on a device."""
    fused = torch.cat((step.q, step.k, step.v), 1).to(device)
    sizes = [step.q.shape[1], step.k.shape[1], step.v.shape[1]]
    for name in ("positions", "slot_mapping"):
        setattr(step.meta, name, getattr(step.meta, name).to(device))
    return Step(*fused.split(sizes, 1), step.kv_cache.to(device), step.meta)


def both(step: Step, cos_sin: Tensor, norms: tuple[Tensor | None, Tensor | None]) -> tuple[Result, Result]:
    """q and the cache as the kernel and as the reference leave them."""
    from quire.kernels.triton.rope_and_cache_write import rope_and_cache_write

    results: list[Result] = []
    for function in (rope_and_cache_write, reference.rope_and_cache_write):
        cache = step.kv_cache.clone()
        q = function(step.q, step.k, step.v, cos_sin, cache, step.meta, *norms, 1e-5)
        results.append((q, cache))
    return results[0], results[1]


def angles(rotary: int, device: torch.device) -> Tensor:
    angle = random(64, rotary // 2, dtype=torch.float32, seed=5)
    return torch.cat((angle.cos(), angle.sin()), 1).to(device)


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize(("size", "rotary"), [(16, 16), (64, 64), (80, 32), (96, 96), (128, 64), (20, 8)])
def test_without_norms_every_byte_is_the_references(
    size: int, rotary: int, cache: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    step = on(make_step([1, 20, 9], [1, 4, 9], head_size=size, dtype=dtype, cache_dtype=cache), device)
    (q, written), (expected_q, expected) = both(step, angles(rotary, device), (None, None))
    assert torch.equal(q, expected_q)
    assert torch.equal(written.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize(("size", "rotary"), [(32, 32), (96, 48)])
@pytest.mark.parametrize("which", ["q", "k", "both"])
def test_norms(
    which: str, size: int, rotary: int, cache: torch.dtype, dtype: torch.dtype, device: torch.device
) -> None:
    step = on(make_step([7, 3], [7, 1], head_size=size, dtype=dtype, cache_dtype=cache), device)
    norms = [1 + 0.3 * random(size, dtype=dtype, seed=seed).to(device) for seed in (6, 7)]
    chosen = norms[0] if which != "k" else None, norms[1] if which != "q" else None
    (q, written), (expected_q, expected) = both(step, angles(rotary, device), chosen)
    assert_close(q, expected_q)
    actual, wanted = reference.from_cache(written), reference.from_cache(expected)
    step_of_int8 = 1 / 127 if cache == torch.int8 else 0.0
    assert_close(actual, wanted, max(TOLERANCE[dtype], TOLERANCE.get(cache, 0.0), step_of_int8))


@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (5, 5), (33, 3), (64, 8)])
def test_any_number_of_heads(heads: tuple[int, int], device: torch.device) -> None:
    step = on(make_step([9], [4], num_heads=heads[0], num_kv_heads=heads[1], head_size=64), device)
    (q, written), (expected_q, expected) = both(step, angles(64, device), (None, None))
    assert torch.equal(q, expected_q)
    assert torch.equal(written, expected)


def test_int8_rows_that_cannot_be_scaled(device: torch.device) -> None:
    """Zeros, numbers too small for an inverse, ties, infinities and NaN."""
    step = on(make_step([6], [6], num_kv_heads=1, cache_dtype=torch.int8), device)
    v = step.v
    v[0] = 0.0
    v[1] = 1e-39
    v[5] = torch.tensor(0x02FE0000, dtype=torch.int32).view(torch.float32)
    v[5, 0, 0] = torch.tensor(0x02FE0001, dtype=torch.int32).view(torch.float32)
    v[2, 0] = torch.arange(-8, 8) + 0.5
    v[2, 0, 0] = 127.0
    v[3, 0, 3] = float("inf")
    v[4, 0, 15] = float("nan")
    (_, written), (_, expected) = both(step, angles(8, device), (None, None))
    assert torch.equal(written, expected)


def test_fp8_bytes_are_those_of_torchs_saturating_cast(device: torch.device) -> None:
    """Every exponent, both signs, ties, what is too large, and what is not a number."""
    values = torch.arange(0, 2**16, dtype=torch.int32).to(torch.uint16).view(torch.float16).float()
    values = torch.cat((values, torch.tensor([448.0, 463.9, 464.0, 464.1, 480.0, 1e30, float("inf")])))
    values = torch.nn.functional.pad(values, (0, -len(values) % 2048)).view(-1, 8, 256)
    length = len(values)
    step = make_step([length], [length], num_heads=8, num_kv_heads=8, head_size=256)
    step.v = values
    step.kv_cache = torch.zeros_like(step.kv_cache).to(torch.float8_e4m3fn)
    step = on(step, device)
    from quire.kernels.triton.rope_and_cache_write import rope_and_cache_write

    table = torch.cat((torch.ones(length, 64), torch.zeros(length, 64)), 1).to(device)
    rope_and_cache_write(step.q, step.k, step.v, table, step.kv_cache, step.meta)
    slots = step.meta.slot_mapping
    rows = step.kv_cache.view(torch.uint8)[:, slots // 16, :, slots % 16].transpose(0, 1)
    for row, x in zip(rows, (step.k, step.v), strict=True):
        expected = x.clamp(-448, 448).to(torch.float8_e4m3fn)  # 2.11 does not saturate by itself
        real = ~expected.float().isnan()
        assert torch.equal(row[real], expected.view(torch.uint8)[real])
        assert (row[~real] & 0x7F == 0x7F).all()


def test_a_token_does_not_depend_on_the_others(dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.rope_and_cache_write import rope_and_cache_write

    step = on(make_step([40], [9], head_size=64, dtype=dtype, cache_dtype=torch.int8), device)
    norm = random(64, dtype=dtype, seed=8).to(device)
    cos_sin, together = angles(64, device), step.kv_cache.clone()
    q = rope_and_cache_write(step.q, step.k, step.v, cos_sin, together, step.meta, norm, norm)
    alone = step.kv_cache.clone()
    for i in range(9):
        meta = step.meta
        one = Step(step.q[i : i + 1], step.k[i : i + 1], step.v[i : i + 1], alone, meta)
        fields = {name: getattr(meta, name) for name in ("positions", "slot_mapping")}
        for name, value in fields.items():
            setattr(meta, name, value[i : i + 1])
        row = rope_and_cache_write(one.q, one.k, one.v, cos_sin, alone, meta, norm, norm)
        for name, value in fields.items():
            setattr(meta, name, value)
        assert torch.equal(row[0], q[i])
    assert torch.equal(alone, together)


def test_random_shapes(device: torch.device) -> None:
    seed = python_random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = python_random.Random(seed)
    for _ in range(5):
        size = 2 * rng.randint(1, 70)
        kv_heads = rng.randint(1, 5)
        lengths = [rng.randint(1, 60) for _ in range(rng.randint(1, 2))]
        step = make_step(
            lengths,
            [rng.randint(1, min(n, 9)) for n in lengths],
            num_heads=kv_heads * rng.randint(1, 4),
            num_kv_heads=kv_heads,
            head_size=size,
            block_size=rng.choice((4, 16, 32)),
            cache_dtype=rng.choice(CACHES),
            seed=rng.randrange(1 << 30),
        )
        rotary = 2 * rng.randint(1, size // 2)
        (q, written), (expected_q, expected) = both(on(step, device), angles(rotary, device), (None, None))
        assert torch.equal(q, expected_q)
        assert torch.equal(written.view(torch.uint8), expected.view(torch.uint8))


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    from quire.kernels.triton.rope_and_cache_write import rope_and_cache_write

    step, cos_sin = on(make_step([4], [4]), device), angles(16, device)
    inputs = step.q, step.k, step.v, cos_sin
    with pytest.raises(ValueError, match=r"torch\.int32"):
        rope_and_cache_write(*inputs, step.kv_cache.int(), step.meta)
    with pytest.raises(ValueError, match="rows of 15"):
        rope_and_cache_write(*inputs, step.kv_cache[..., :15], step.meta)
    with pytest.raises(ValueError, match="one dtype"):
        rope_and_cache_write(step.q.half(), step.k, step.v, cos_sin, step.kv_cache, step.meta)
    assert not len(
        rope_and_cache_write(step.q[:0], step.k[:0], step.v[:0], cos_sin, step.kv_cache, step.meta)
    )
