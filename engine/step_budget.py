"""How many tokens a step may have, and how many of them prompts may take while others decode.

A step takes as long as its tokens, and everybody who decodes in it waits for it. A prompt that came whole
into a step would hold up the streams beside it by as much; in small chunks it makes them a little slower for
a while, and their tokens come evenly (Sarathi-Serve, arXiv 2403.02310).
"""

from __future__ import annotations

from collections.abc import Iterable

from .request import Request
from .step_data import ScheduledChunk

PREFILL_TOKENS_PER_DECODE = 2
"""Where many decode, prompts may take so many times as many tokens: seats that become free with every token
want to be filled again, and a limit that does not grow with them would leave them empty."""

NEWCOMER_FACTOR = 2
"""A tenant of whom nobody decodes yet may take so many times more, so that one who asks now and then is not
held up by the small chunks that another's many streams call for."""

MAX_JUMP = 32
"""Tokens that a grammar forced at once and that are still to be computed count as decoding up to here."""


class StepBudget:
    """The limits of every step.

    Args:
        max_tokens: Tokens of a step.
        max_prefill_tokens: Tokens of prompts, and of what is computed again after a preemption, in a step
            in which others decode, if few do; None for no limit but the step's.
    """

    def __init__(self, max_tokens: int, max_prefill_tokens: int | None = None) -> None:
        self.max_tokens = max_tokens
        self.max_prefill_tokens = max_prefill_tokens

    def left(self, chunks: Iterable[ScheduledChunk], request: Request | None = None) -> int:
        """Tokens that are left for a running request, or for one that has not begun, beside these chunks."""
        if self.max_prefill_tokens is None:
            return self.max_tokens - sum(chunk.end - chunk.start for chunk in chunks)
        num_tokens = num_decoding = num_prefill = 0
        is_new = request is not None  # to those who decode: nobody of its tenant does
        for chunk in chunks:
            size = chunk.end - chunk.start
            num_tokens += size
            if _is_prefill(chunk.request, chunk.start):
                num_prefill += size
            else:
                num_decoding += 1
                is_new = is_new and request is not None and chunk.request.tenant != request.tenant
        left = self.max_tokens - num_tokens
        if not num_decoding:
            return left
        if request is not None and not _is_prefill(request, request.num_computed_tokens):
            return left
        limit = max(self.max_prefill_tokens, PREFILL_TOKENS_PER_DECODE * num_decoding)
        if is_new:
            limit *= NEWCOMER_FACTOR
        return min(left, max(0, limit - num_prefill))


def _is_prefill(request: Request, start: int) -> bool:
    """Whether a chunk that begins at `start` is of a prompt, or recomputes."""
    return start < request.num_prompt_tokens or request.num_tokens - start > MAX_JUMP
