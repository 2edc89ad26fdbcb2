"""The mixture of experts in Triton against the reference."""

from __future__ import annotations

import random as python_random

import pytest
import torch
from torch import Tensor

from kernel_inputs import TOLERANCE, assert_close, random
from quire.kernels import reference


def make(
    tokens: int,
    hidden: int,
    inner: int,
    experts: int,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, router logits, gate_up and down."""
    x = random(tokens, hidden, dtype=dtype, seed=seed)
    logits = random(tokens, experts, dtype=dtype, seed=seed + 1)
    # Without ties, which torch breaks as it likes.
    logits += torch.arange(experts).to(dtype) / 64
    gate_up = random(experts, 2 * inner, hidden, dtype=dtype, seed=seed + 2) * hidden**-0.5
    down = random(experts, hidden, inner, dtype=dtype, seed=seed + 3) * inner**-0.5
    return x.to(device), logits.to(device), gate_up.to(device), down.to(device)


@pytest.mark.parametrize("renormalize", [False, True])
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(1, 8, 2), (5, 8, 2), (40, 4, 2), (3, 16, 8), (33, 3, 1), (2, 5, 5)]
)
def test_moe(
    tokens: int, experts: int, top_k: int, renormalize: bool, dtype: torch.dtype, device: torch.device
) -> None:
    from quire.kernels.triton.moe import moe

    inputs = make(tokens, 48, 40, experts, dtype, device)
    expected = reference.moe(*inputs, top_k, renormalize)
    assert_close(moe(*inputs, top_k, renormalize), expected, 2 * TOLERANCE[dtype])


def test_an_expert_with_all_tokens_and_large_tiles(device: torch.device) -> None:
    """More assignments than `LARGE_ROWS` for each expert, and blocks that are full to the last row."""
    from quire.kernels.triton import moe as module

    x, logits, gate_up, down = make(256, 40, 32, 2, torch.float16, device)
    logits[:, 0] += 20
    assert module.choose_tiles(x.dtype, 256, 2) is module.LARGE
    expected = reference.moe(x, logits, gate_up, down, 1)
    assert_close(module.moe(x, logits, gate_up, down, 1), expected, 2 * TOLERANCE[x.dtype])


def test_wide_hidden_states(device: torch.device) -> None:
    """More inputs than a tile, more outputs than a program of the sum, and neither a multiple."""
    from quire.kernels.triton.moe import moe

    inputs = make(3, 1064, 136, 4, torch.float32, device)
    assert_close(moe(*inputs, 2), reference.moe(*inputs, 2), 2 * TOLERANCE[torch.float32])


def test_no_tokens(device: torch.device) -> None:
    from quire.kernels.triton.moe import moe

    assert moe(*make(0, 48, 40, 4, torch.float32, device), 2).shape == (0, 48)


@pytest.mark.parametrize("renormalize", [False, True])
def test_routing(renormalize: bool, device: torch.device) -> None:
    from quire.kernels.triton.moe import route

    logits = random(9, 128, dtype=torch.float32).to(device)
    logits[3] = 0.0  # all equal: the first
    weights, chosen = route(logits, 6, renormalize)
    chances, expected = torch.softmax(logits, -1).topk(6, -1)
    expected[3] = torch.arange(6)
    chances = chances / chances.sum(-1, keepdim=True) if renormalize else chances
    assert torch.equal(chosen.long(), expected)
    assert_close(weights, chances)


@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(1, 1, 1), (7, 5, 2), (700, 3, 2), (90, 129, 4)])
def test_blocks_hold_every_assignment_once(
    tokens: int, experts: int, top_k: int, device: torch.device
) -> None:
    from quire.kernels.triton.moe import align

    generator = torch.Generator().manual_seed(tokens)
    chosen = torch.randint(0, experts, (tokens, top_k), generator=generator, dtype=torch.int32)
    rows, owners, num_blocks = align(chosen.to(device), experts, 16)
    number = int(num_blocks)
    assert number <= len(owners)
    flat, found = chosen.flatten().tolist(), list[int]()
    for owner, block in zip(owners[:number].tolist(), rows.view(-1, 16)[:number].tolist(), strict=True):
        real = [row for row in block if row < len(flat)]
        assert block == real + [len(flat)] * (16 - len(real))
        assert real
        assert all(flat[row] == owner for row in real)
        found += real
    # In the order of the experts, and of an expert in the order of the tokens.
    assert found == sorted(range(len(flat)), key=lambda row: (flat[row], row))


def test_a_token_does_not_depend_on_the_others(dtype: torch.dtype, device: torch.device) -> None:
    from quire.kernels.triton.moe import moe

    x, logits, gate_up, down = make(12, 80, 40, 6, dtype, device)
    together = moe(x, logits, gate_up, down, 3)
    for i in range(0, 12, 3):
        alone = moe(x[i : i + 1], logits[i : i + 1], gate_up, down, 3)
        assert torch.equal(alone[0], together[i])


# The interpreter's maximum, which is numpy's, warns of NaN.
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
def test_a_poisoned_token_harms_no_other(device: torch.device) -> None:
    from quire.kernels.triton.moe import moe

    x, logits, gate_up, down = make(6, 48, 40, 4, torch.float32, device)
    clean = moe(x, logits, gate_up, down, 2)
    logits[2], x[4, 7] = float("nan"), float("nan")
    out = moe(x, logits, gate_up, down, 2)
    assert out.isnan().any(-1).tolist() == [False, False, True, False, True, False]
    kept = torch.tensor([0, 1, 3, 5], device=device)
    assert torch.equal(out[kept], clean[kept])


def test_random_shapes(device: torch.device) -> None:
    from quire.kernels.triton.moe import moe

    seed = python_random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = python_random.Random(seed)
    for _ in range(6):
        experts = rng.randint(1, 20)
        top_k = rng.randint(1, min(experts, 8))
        shape = rng.randint(1, 50), rng.randint(1, 100), rng.randint(1, 70)
        inputs = make(*shape, experts, torch.float32, device, seed=rng.randrange(1 << 30))
        renormalize = rng.random() < 0.5
        expected = reference.moe(*inputs, top_k, renormalize)
        assert_close(moe(*inputs, top_k, renormalize), expected, 4 * TOLERANCE[torch.float32])
