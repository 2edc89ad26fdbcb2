"""The noise of draws against the published vectors of Philox4x32-10 and the engine's own noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quire.engine import noise
from quire.kernels import philox

# Known-answer vectors of the Random123 library (kat_vectors, philox4x32 10).
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([int(word, 16)]) for word in counter.split())
    k0, k1 = (torch.tensor([int(word, 16)]) for word in key.split())
    result = philox.philox((c0, c1, c2, c3), (k0, k1))
    assert [int(word) for word in result] == [int(word, 16) for word in expected.split()]


def test_a_tokens_word_is_that_of_its_counter() -> None:
    seed, position = -(1 << 62) - 12345, (7 << 32) + 9
    words = philox.token_words(torch.tensor([5, seed]), torch.tensor([3, position]), 11)
    assert words.shape == (2, 11)
    key = [np.array([seed >> shift & 0xFFFFFFFF], dtype=np.uint64) for shift in (0, 32)]
    for token in range(11):
        counter = [np.array([c], dtype=np.uint64) for c in (token // 4, 0, 9, 7)]
        expected = noise.philox((*counter,), (*key,))  # type: ignore[arg-type]
        assert int(words[1, token]) == int(expected[token % 4][0])


def test_exponential_is_a_logarithm_down_to_the_smallest_word() -> None:
    words = torch.tensor([0, 1, 1000, 1 << 20, (1 << 28) - 1, 1 << 28, 1 << 31, (1 << 32) - (1 << 20)])
    exact = [-math.log1p(-(w + 0.5) / 2**32) for w in words.tolist()]
    actual = philox.exponential(words)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), torch.tensor(exact, dtype=torch.float64), rtol=3e-6, atol=0)
    last = philox.exponential(torch.tensor([(1 << 32) - 1]))
    assert torch.isfinite(last).all()
    assert last > 16


def test_numbers_are_distributed_exponentially() -> None:
    words = philox.token_words(torch.tensor([3]), torch.tensor([4]), 100_000)
    values = philox.exponential(words)[0].double()
    counts = torch.histc(1 - torch.exp(-values), bins=20, min=0, max=1)
    # Chi-squared with 19 degrees of freedom; 45.3 is exceeded once in 1,500 seeds.
    assert float(((counts - 5000) ** 2 / 5000).sum()) < 45.3
