"""Sampled tokens that a device may still be computing, and what they become."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from ..errors import NoTokenAllowed
from .step_data import RawLogprobs

NUMERICAL_ERROR = "numerical_error"
"""The code of `errors.NumericalError`."""


NO_TOKEN_ALLOWED = str(NoTokenAllowed.default_code)


@dataclass(slots=True)
class SamplerOutput:
    """Tokens of the rows; by row index, log-probabilities where asked for, and failures."""

    tokens: list[int]
    logprobs: dict[int, RawLogprobs] = field(default_factory=dict[int, RawLogprobs])
    errors: dict[int, str] = field(default_factory=dict[int, str])


Fetch = Callable[[Tensor], Tensor]
"""Starts a tensor's copy to the host and returns that copy."""


@dataclass(slots=True)
class PendingScores:
    """Log-probabilities of R rows that the device may still be computing.

    Attributes:
        tokens: int64 `[R]`, the token of each row.
        own: fp32 `[R]`, its log-probability.
        ranks: int64 `[R]`, its rank.
        nums: How many of the most likely tokens each row asks for.
        values, indices: `[R, max(nums)]`, those and their log-probabilities; None if no row asks.
    """

    tokens: Tensor
    own: Tensor
    ranks: Tensor
    nums: Sequence[int]
    values: Tensor | None = None
    indices: Tensor | None = None

    def fetch(self, fetch: Fetch) -> None:
        """Starts the copies to the host."""
        self.tokens, self.own, self.ranks = fetch(self.tokens), fetch(self.own), fetch(self.ranks)
        if self.values is not None and self.indices is not None:
            self.values, self.indices = fetch(self.values), fetch(self.indices)

    def entries(self) -> list[RawLogprobs]:
        """One entry per row."""
        tokens: list[int] = self.tokens.tolist()
        own: list[float] = self.own.tolist()
        ranks: list[int] = self.ranks.tolist()
        values: list[list[float]] = [] if self.values is None else self.values.tolist()
        indices: list[list[int]] = [] if self.indices is None else self.indices.tolist()
        entries: list[RawLogprobs] = []
        for i, num in enumerate(self.nums):
            entry: RawLogprobs = [(tokens[i], own[i], ranks[i])]
            if num:
                entry += zip(indices[i][:num], values[i][:num], range(1, num + 1), strict=False)
            entries.append(entry)
        return entries


@dataclass(slots=True)
class PendingSample:
    """Tokens that the device may still be computing.

    Attributes:
        best: fp32 `[R]`, each row's largest raw logit.
        tokens: int64 `[R]`, the tokens.
        adjusted: The rows whose logits were changed.
        allowed: fp32, the largest logit of each of them after that; -inf where no token is left.
        errors: Failures that are known already.
        scored: The rows that want log-probabilities.
        scores: Theirs.
    """

    best: Tensor
    tokens: Tensor
    adjusted: list[int] = field(default_factory=list[int])
    allowed: Tensor | None = None
    errors: dict[int, str] = field(default_factory=dict[int, str])
    scored: list[int] = field(default_factory=list[int])
    scores: PendingScores | None = None

    def fetch(self, fetch: Fetch) -> None:
        """Starts the copies to the host."""
        self.best, self.tokens = fetch(self.best), fetch(self.tokens)
        if self.allowed is not None:
            self.allowed = fetch(self.allowed)
        if self.scores is not None:
            self.scores.fetch(fetch)

    def finish(self) -> SamplerOutput:
        """The result; whoever has called `fetch` waits for the copies first."""
        # argmax gives NaN for a row that has one, so a poisoned row shows in its maximum. This is Python and
        # not torch because a step has just streamed all weights through the caches: each operation of
        # torch then costs some 30 us, which a step of one request feels.
        failed = [i for i, value in enumerate(self.best.tolist()) if not math.isfinite(value)]
        errors = dict.fromkeys(failed, NUMERICAL_ERROR)
        allowed: list[float] = [] if self.allowed is None else self.allowed.tolist()
        for i, value in zip(self.adjusted, allowed, strict=True):
            if i in self.errors:
                errors.setdefault(i, self.errors[i])
            elif value == float("-inf"):
                errors.setdefault(i, NO_TOKEN_ALLOWED)
        tokens: list[int] = self.tokens.tolist()
        output = SamplerOutput(tokens, errors=errors)
        if self.scores is not None:
            output.logprobs = dict(zip(self.scored, self.scores.entries(), strict=True))
        return output
