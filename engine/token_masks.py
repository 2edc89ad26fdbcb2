"""Masks of allowed tokens, one bit per token, for the rows whose outputs follow a grammar."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .structured import OutputGrammar

if TYPE_CHECKING:
    from llguidance import LLExecutor

MAX_THREADS = 8

Words = NDArray[np.uint32]
"""`[R, ceil(vocab / 32)]`: bit b of word w is token 32 w + b."""


class TokenMasks:
    """Asks grammars which tokens may come next, all rows of a step at once. Owns the threads for it."""

    def __init__(self) -> None:
        self._executor: LLExecutor | None = None

    def compute(self, grammars: Sequence[OutputGrammar], vocab_size: int) -> Words:
        """The masks of R outputs where they stand. Computing them again gives the same ones.

        An output whose grammar has failed has only EOS; see `OutputGrammar.failed`.
        """
        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor(min(MAX_THREADS, os.cpu_count() or 1))
        words = np.zeros((len(grammars), -(-vocab_size // 32)), dtype=np.uint32)
        matchers = [(grammar.matcher, row) for row, grammar in enumerate(grammars)]
        self._executor.unsafe_compute_mask_ptr(matchers, words.ctypes.data, words.shape[1] * 4, len(grammars))
        _allow_all_eos(words, grammars[0].eos_token_ids)
        return words


def _allow_all_eos(words: Words, eos_token_ids: Sequence[int]) -> None:
    """Gives a model's other EOS tokens the bit of its first one, which alone the grammars know."""
    first, *others = eos_token_ids
    bits = words[:, first // 32] >> np.uint32(first % 32) & np.uint32(1)
    for token in others:
        words[:, token // 32] &= ~np.uint32(1 << token % 32)
        words[:, token // 32] |= bits << np.uint32(token % 32)


def _penalties_by_byte() -> NDArray[np.float32]:
    """`[256, 8]`: what the eight bits of a byte add to the logits of their tokens."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return np.where(bits, np.float32(0), np.float32(-np.inf))


_PENALTIES = _penalties_by_byte()


def forbid(logits: Tensor, words: Words, rows: Sequence[int]) -> None:
    """Sets the logits of tokens whose bit is 0 to minus infinity, in place. What is NaN remains it.

    Args:
        logits: fp32 `[R, vocab]`.
        words: The masks of some rows.
        rows: Which ones.
    """
    vocab_size = logits.shape[1]
    if logits.device.type == "cpu":
        # Row by row, so that what is added stays in the cache: masked_fill_ takes 25 times as long.
        values = logits.numpy()
        for row, mask in zip(rows, words, strict=True):
            values[row] += np.take(_PENALTIES, mask.view(np.uint8), axis=0).reshape(-1)[:vocab_size]
        return
    # The bits go over the bus, 32 times fewer bytes than what they become.
    packed = torch.from_numpy(words.view(np.int32)).to(logits.device)
    shifts = torch.arange(32, dtype=torch.int32, device=logits.device)
    forbidden = (packed[:, :, None] >> shifts & 1 == 0).flatten(1)[:, :vocab_size]
    if len(rows) == logits.shape[0]:
        logits.masked_fill_(forbidden, float("-inf"))
    else:
        chosen = torch.tensor(rows, device=logits.device)
        logits[chosen] = logits[chosen].masked_fill(forbidden, float("-inf"))
