"""argmax in Triton against the reference."""

from __future__ import annotations

import pytest
import torch

from kernel_inputs import random
from quire.kernels import reference


@pytest.mark.parametrize("vocab", [1, 5, 320, 4096, 4097, 3 * 4096 - 1, 5 * 4096])
def test_argmax(vocab: int, device: torch.device) -> None:
    from quire.kernels.triton.argmax import argmax

    logits = random(3, vocab, dtype=torch.float32).to(device)
    logits[1] = -logits[1].abs() - 1
    for actual, expected in zip(argmax(logits), reference.argmax(logits), strict=True):
        assert torch.equal(actual, expected)


def test_the_first_of_equals(device: torch.device) -> None:
    from quire.kernels.triton.argmax import argmax

    logits = torch.full((4, 10_000), -1.0, device=device)
    logits[0, [77, 78, 9000]] = 2.0
    logits[1, [9000, 9001]] = 2.0
    logits[2] = float("-inf")
    logits[3, 50], logits[3, 20] = 0.0, -0.0
    values, indices = argmax(logits)
    assert indices.tolist() == [77, 9000, 0, 20]
    assert values.tolist() == [2.0, 2.0, float("-inf"), 0.0]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_shows(sign: float, device: torch.device) -> None:
    from quire.kernels.triton.argmax import argmax

    logits = random(3, 9000, dtype=torch.float32).to(device)
    logits[0, 3] = float("inf")
    logits[0, 8999] = logits[2, 0] = sign * float("nan")
    values, indices = argmax(logits)
    assert values.isnan().tolist() == [True, False, True]
    assert indices.tolist() == [8999, int(logits[1].argmax()), 0]


def test_strided_rows_and_none(device: torch.device) -> None:
    from quire.kernels.triton.argmax import argmax

    logits = random(6, 700, dtype=torch.float32).to(device)[::2, :600]
    for actual, expected in zip(argmax(logits), reference.argmax(logits), strict=True):
        assert torch.equal(actual, expected)
    assert argmax(logits[:0])[1].shape == (0,)
