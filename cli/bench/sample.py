"""What is asked of a server, and what is observed of the answer."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """One request of a load.

    Attributes:
        prompt: Text, or token ids.
        num_output: Tokens to generate, or None for the server's own limit.
    """

    prompt: str | list[int]
    num_output: int | None


TokenSource = Literal["usage", "token_ids", "chunks"]


@dataclass(slots=True)
class Sample:
    """One request's life. Times are seconds of one clock; the order is that of the fields.

    A sample that has neither an end nor an error was still running when the measurement stopped.

    Attributes:
        index: Its place in the load.
        intended: When it should have been sent. Latencies count from here, so that a request is not
            forgiven the time for which something kept it from being sent (coordinated omission).
        begun: When the generator came to it.
        started: When it was sent: later than `begun` if there is a limit of requests at once.
        chunk_times: When each piece of the answer came, those without any text left out.
        chunk_tokens: Tokens in each piece, -1 where the server does not say.
        finished: When the answer was whole.
        ended: When it was over, well or not.
        prompt_tokens, completion_tokens: As the server counts them, or None.
        error: The kind of failure, or None.
        detail: The failure in words.
    """

    index: int
    intended: float
    begun: float = math.nan
    started: float = math.nan
    chunk_times: array[float] = field(default_factory=lambda: array("d"))
    chunk_tokens: array[int] = field(default_factory=lambda: array("q"))
    finished: float | None = None
    ended: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    detail: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether the whole answer came."""
        return self.finished is not None and self.error is None

    @property
    def is_unfinished(self) -> bool:
        """Whether it was still running when the measurement stopped."""
        return self.finished is None and self.error is None

    @property
    def token_source(self) -> TokenSource:
        """Where the number of output tokens comes from; "chunks" takes each piece for one token."""
        if self.completion_tokens is not None:
            return "usage"
        return "token_ids" if self.chunk_tokens and min(self.chunk_tokens) >= 0 else "chunks"

    @property
    def num_output_tokens(self) -> int:
        """Tokens of the answer, or of what came of it."""
        source = self.token_source
        if source == "usage":
            return self.completion_tokens or 0
        return sum(self.chunk_tokens) if source == "token_ids" else len(self.chunk_times)

    @property
    def ttft(self) -> float:
        """Seconds until the first piece of the answer."""
        return self.chunk_times[0] - self.intended

    @property
    def e2e(self) -> float:
        """Seconds until the answer was whole."""
        return (math.nan if self.finished is None else self.finished) - self.intended

    @property
    def tpot(self) -> float | None:
        """Mean seconds of a token after the first one; None where there is none."""
        later = self.num_output_tokens - 1
        return (self.chunk_times[-1] - self.chunk_times[0]) / later if later > 0 else None

    def chunk_gaps(self) -> list[float]:
        """Seconds between one piece of the answer and the next."""
        times = self.chunk_times
        return [later - earlier for earlier, later in pairwise(times)]

    def token_gaps(self) -> list[float] | None:
        """Seconds between tokens: a piece's gap is spread evenly over its tokens.

        None where nothing tells how many tokens each piece has. Pieces as many as tokens have one each.
        """
        counts: Sequence[int] = self.chunk_tokens
        if self.token_source != "token_ids" and not (counts and min(counts) >= 0):
            if self.completion_tokens != len(self.chunk_times):
                return None
            counts = [1] * len(self.chunk_times)
        gaps: list[float] = []
        for gap, count in zip(self.chunk_gaps(), counts[1:], strict=True):
            gaps += [gap / count] * count if count else []
        return gaps

    def fail(self, kind: str, detail: str) -> None:
        """Marks it as failed; the first failure counts."""
        if self.error is None:
            self.error, self.detail = kind, detail
