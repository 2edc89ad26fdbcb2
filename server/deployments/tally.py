"""What is known of one version's requests: counts, and the latest latencies and scores."""

from __future__ import annotations

import math
from enum import StrEnum

import msgspec

MOST_VALUES = 512


class Outcome(StrEnum):
    """How a request to a version ended.

    `VOID` is the client's own doing (a 4xx, a disconnect) and tells nothing of the version. `HUNG` is a
    request that waited longer for a sign of life than the deployment allows; it counts as a failure, too.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HUNG = "hung"
    VOID = "void"

    @property
    def is_failure(self) -> bool:
        """Whether it counts against the version."""
        return self in (Outcome.FAILED, Outcome.HUNG)


class Ring(msgspec.Struct):
    """The latest values of a series, in no particular order.

    Attributes:
        values: At most `MOST_VALUES`.
        num_added: All values that there ever were.
    """

    values: list[float] = msgspec.field(default_factory=list[float])
    num_added: int = 0

    @property
    def last(self) -> float:
        """The latest; NaN if there is none."""
        return self.values[(self.num_added - 1) % MOST_VALUES] if self.values else math.nan

    def add(self, value: float) -> None:
        """Takes a value in; the oldest goes."""
        if len(self.values) < MOST_VALUES:
            self.values.append(value)
        else:
            self.values[self.num_added % MOST_VALUES] = value
        self.num_added += 1


class Tally(msgspec.Struct):
    """The books of one version over some time.

    Attributes:
        num_succeeded, num_failed, num_hung, num_void: Requests by outcome; a hung one is among the failed.
        latencies: Seconds of requests that succeeded.
        scores: What clients said of its answers: higher is better.
    """

    num_succeeded: int = 0
    num_failed: int = 0
    num_hung: int = 0
    num_void: int = 0
    latencies: Ring = msgspec.field(default_factory=Ring)
    scores: Ring = msgspec.field(default_factory=Ring)

    @property
    def num_judged(self) -> int:
        """Requests that say something of the version."""
        return self.num_succeeded + self.num_failed

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Books a request's end."""
        if outcome is Outcome.SUCCEEDED:
            self.num_succeeded += 1
            self.latencies.add(seconds)
        elif outcome is Outcome.VOID:
            self.num_void += 1
        else:
            self.num_failed += 1
            self.num_hung += outcome is Outcome.HUNG
