"""Noise for a whole vocabulary that is a function of a seed, a position and a token, and of nothing else.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) maps a 64-bit key and a
128-bit counter to four words of 32 bits. The key is the seed; the counter holds a token's id over 4, in its
low two words, and the position, in its high two. Token t takes word t % 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

LARGEST = 1.0 - 2.0**-24
"""The last fp32 before 1, whose logarithm of the rest is still finite."""


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of each counter; every word is an int64 that holds 32 bits, and shapes broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # int64 products wrap around, but their 64 bits are those of the unsigned ones.
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> 32 & MASK) ^ c1 ^ k0,
            second & MASK,
            (first >> 32 & MASK) ^ c3 ^ k1,
            first & MASK,
        )
        k0, k1 = k0 + KEY_STEPS[0] & MASK, k1 + KEY_STEPS[1] & MASK
    return c0, c1, c2, c3


def token_words(seeds: Tensor, positions: Tensor, vocab: int) -> Tensor:
    """A word of 32 bits for each token.

    Args:
        seeds: int64 `[R]`, any bits.
        positions: int64 `[R]`.
        vocab: How many tokens.

    Returns:
        int64 `[R, vocab]`.
    """
    blocks = torch.arange(-(-vocab // 4), device=seeds.device)[None, :]
    seeds, positions = seeds[:, None], positions[:, None]
    counter = blocks & MASK, blocks >> 32, positions & MASK, positions >> 32 & MASK
    words = philox(counter, (seeds & MASK, seeds >> 32 & MASK))
    return torch.stack(words, -1).flatten(1)[:, :vocab]


def exponential(words: Tensor) -> Tensor:
    """Exponentially distributed fp32 numbers, `-log(1 - v)`, where v is `(word + 1/2) / 2^32`.

    Small ones, which decide draws, are as fine as their words: there the logarithm is a series in v, as
    `1 - v` would round most of its bits away.
    """
    v = ((words.float() + 0.5) * 2.0**-32).clamp(max=LARGEST)
    series = v * (1 + v * (1 / 2 + v * (1 / 3 + v * (1 / 4 + v * (1 / 5 + v * (1 / 6))))))
    return torch.where(v < 1 / 16, series, -torch.log(1 - v))
