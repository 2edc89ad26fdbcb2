"""What the engine gives back: deltas per step inside, completions outside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """The natural log-probability of a token, before temperature, penalties and masks.

    Attributes:
        logprob: At most 0.
        rank: 1 for the most likely token of the vocabulary.
        decoded_token: The token's own text, with U+FFFD for bytes that are no whole character.
    """

    logprob: float
    rank: int
    decoded_token: str


TokenLogprobs = dict[int, Logprob]
"""The sampled token and the most likely ones, by token id; the sampled one comes first."""


@dataclass(slots=True)
class CompletionOutput:
    """One choice of a request.

    Attributes:
        index: Which of the request's n choices.
        text: The text. In a streamed delta, what is new since the last one.
        token_ids: The tokens; in a delta, the new ones.
        cumulative_logprob: Sum of the tokens' log-probabilities, or None if not asked for.
        logprobs: One entry per token of `token_ids`, or None if not asked for.
        finish_reason: None while the choice is running.
        stop_reason: The stop string or stop token id that ended it; None for EOS or length.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class RequestOutput:
    """The state of a request, or in streaming the change since the last output.

    Attributes:
        request_id: The caller's id.
        prompt: The prompt's text, if it was given as text.
        prompt_token_ids: The prompt's tokens.
        prompt_logprobs: One entry per prompt token, the first None; None if not asked for.
        outputs: The choices, or in streaming the choices that changed.
        finished: Whether every choice has a finish reason.
        num_cached_tokens: Prompt tokens that were found in the prefix cache.
        pooled: The prompt's vector, if pooling was asked for: float32, little-endian.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    outputs: list[CompletionOutput] = field(default_factory=list[CompletionOutput])
    finished: bool = False
    num_cached_tokens: int = 0
    pooled: bytes | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """The vector of a prompt."""

    embedding: list[float]


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """What `LLM.embed` gives for a prompt; fields as in `RequestOutput`."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: EmbeddingOutput
    num_cached_tokens: int = 0
    finished: bool = True


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """The vector of a prompt, as it was asked for."""

    data: list[float]


@dataclass(frozen=True, slots=True)
class PoolingRequestOutput:
    """What `LLM.encode` gives for a prompt; fields as in `RequestOutput`."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: PoolingOutput
    num_cached_tokens: int = 0
    finished: bool = True


@dataclass(frozen=True, slots=True)
class ClassificationOutput:
    """What the model says to each of its labels, in their order."""

    probs: list[float]

    @property
    def num_classes(self) -> int:
        """How many labels there are."""
        return len(self.probs)


@dataclass(frozen=True, slots=True)
class ClassificationRequestOutput:
    """What `LLM.classify` gives for a prompt; fields as in `RequestOutput`."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: ClassificationOutput
    num_cached_tokens: int = 0
    finished: bool = True


@dataclass(frozen=True, slots=True)
class ScoringOutput:
    """How well two texts fit: what a cross-encoder says, or the cosine of their embeddings, in -1..1."""

    score: float


@dataclass(frozen=True, slots=True)
class ScoringRequestOutput:
    """What `LLM.score` gives for a pair; `prompt_token_ids` are those of both texts."""

    request_id: str
    prompt_token_ids: list[int]
    outputs: ScoringOutput
    num_cached_tokens: int = 0
    finished: bool = True
