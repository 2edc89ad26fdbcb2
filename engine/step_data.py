"""What scheduler, runner and engine hand to each other in a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .outputs import FinishReason
from .request import Request


class ScheduledChunk(NamedTuple):
    """Tokens `start..end` of one request, to be computed in this step.

    Attributes:
        samples: Whether the chunk reaches the request's last known token, so that the next token
            is sampled from it. A request that is pooled never samples.
    """

    request: Request
    start: int
    end: int
    samples: bool


@dataclass(slots=True)
class SchedulerOutput:
    """The work of one step.

    Attributes:
        chunks: One per running request that takes part.
        num_tokens: Tokens of all chunks.
        released: Requests that run no more (ended or preempted); the runner drops what it keeps for them.
    """

    chunks: list[ScheduledChunk]
    num_tokens: int
    released: list[str]


RawLogprobs = list[tuple[int, float, int]]
"""(token id, log-probability, rank): the sampled token first, then the most likely ones."""


@dataclass(slots=True)
class ModelRunnerOutput:
    """What the runner found, in the order of the chunks.

    Attributes:
        sampled: The sampled token, or None for a chunk that does not sample.
        logprobs: By chunk index, the log-probabilities of the sampled token, where asked for.
        prompt_logprobs: By chunk index, one entry per prompt token that the chunk scored.
        errors: By chunk index, why the request failed; it ends with `finish_reason` error.
        pooled: By chunk index, the vector of a request that asks for pooling.
    """

    sampled: list[int | None]
    logprobs: dict[int, RawLogprobs] = field(default_factory=dict[int, RawLogprobs])
    prompt_logprobs: dict[int, list[RawLogprobs]] = field(default_factory=dict[int, list[RawLogprobs]])
    errors: dict[int, str] = field(default_factory=dict[int, str])
    pooled: dict[int, bytes] = field(default_factory=dict[int, bytes])


@dataclass(slots=True)
class TokenDelta:
    """What one step added to one request.

    Attributes:
        token_ids: New tokens; empty for a chunk of a prompt.
        logprobs: One entry per new token, or empty if not asked for.
        prompt_logprobs: Entries for the prompt tokens scored in this step.
        stop_token: The stop token that ended the request, if one did.
        error: Set with finish_reason "error": a code from `quire.errors`.
        pooled: The request's vector, if it asked for pooling: float32, little-endian.
    """

    request_id: str
    token_ids: list[int]
    num_cached_tokens: int
    logprobs: Sequence[RawLogprobs] = ()
    prompt_logprobs: Sequence[RawLogprobs] = ()
    finish_reason: FinishReason | None = None
    stop_token: int | None = None
    error: str | None = None
    pooled: bytes | None = None
