"""What every strategy is: a rule that sends requests to versions and learns from how they end.

Pure logic. A strategy never reads a clock and never draws a random number of its own: both are handed to it,
so that days of traffic are simulated in a test, and the same seed gives the same decisions.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from ...errors import InvalidRequest
from .tally import Outcome

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Event:
    """A decision, for the audit log.

    Attributes:
        what: A stable word: "step", "promoted", "rolled_back", "switched", "paused", "resumed", ...
        why: A sentence.
        details: The figures behind it.
    """

    what: str
    why: str
    details: dict[str, Any] = field(default_factory=dict[str, Any])


class Strategy:
    """Chooses among versions.

    Args:
        versions: Their ids; the first is the one that is known to work.
        clock: Seconds, monotonic.
        rng: Where chance comes from.

    Attributes:
        actions: What an operator can do, by the names of the methods that do it.
        actions_with_version: Those that can be told which version to do it to.
        hang_seconds: How long a request may show no sign of life; None for as long as it takes.
        events: Decisions that nobody has taken out yet, the oldest first.
    """

    actions: ClassVar[tuple[str, ...]] = ()
    actions_with_version: ClassVar[tuple[str, ...]] = ()
    hang_seconds: float | None = None

    def __init__(self, versions: Sequence[str], clock: Clock, rng: random.Random) -> None:
        self.versions = tuple(versions)
        self.clock = clock
        self.rng = rng
        self.events: list[Event] = []

    def choose(self, key: str | None) -> str:
        """The version that answers this request; for the same key the same one, as long as that can be."""
        raise NotImplementedError

    def fallback(self, version: str) -> str | None:
        """The version that answers where this one has failed and nothing was sent yet; None for none."""
        return None

    def mirror(self) -> str | None:
        """The version that is asked this request, too, with nobody waiting; None for none."""
        return None

    def observe(self, version: str, outcome: Outcome, seconds: float) -> None:
        """A request to a version has ended, so many seconds after it began."""

    def score(self, version: str, value: float) -> None:
        """A client said how good an answer was: a finite number, by custom from 0 to 1."""

    def tick(self) -> None:
        """Called some times a second: is it time for something?"""

    def act(self, action: str, why: str, argument: str | None = None) -> None:
        """Does what an operator asks. Raises `InvalidRequest` if that is not possible now."""
        if action not in self.actions:
            raise InvalidRequest(
                f"{action} does not exist here: {', '.join(self.actions)} do", param="action"
            )
        if argument is None:
            getattr(self, action)(why)
        elif action in self.actions_with_version:
            getattr(self, action)(why, argument)
        else:
            raise InvalidRequest(f"{action} takes no version", param="version")

    def shares(self) -> dict[str, float]:
        """The share of the requests that each version gets now; they sum to 1."""
        raise NotImplementedError

    @property
    def primary(self) -> str:
        """The version that stands for all of them: the one with the greatest share."""
        shares = self.shares()
        return max(self.versions, key=shares.__getitem__)

    def describe(self) -> dict[str, Any]:
        """What an operator wants to see, as JSON."""
        return {}

    def save(self) -> bytes:
        """The state as JSON, for `load`."""
        raise NotImplementedError

    def load(self, data: bytes) -> None:
        """Takes up a state that an equal strategy saved. Raises `msgspec.MsgspecError` if it is none."""
        raise NotImplementedError

    def note(self, what: str, why: str, **details: Any) -> None:
        """Adds an event."""
        self.events.append(Event(what, why, details))

    def check_version(self, version: str) -> None:
        """Raises `InvalidRequest` unless it is one of the versions."""
        if version not in self.versions:
            raise InvalidRequest(
                f"there is no version {version[:200]!r}, only {', '.join(self.versions)}", param="version"
            )


def encode(state: msgspec.Struct) -> bytes:
    """A state as JSON."""
    return msgspec.json.encode(state)


def place(key: str, salt: str) -> float:
    """Where a key lies between 0 and 1: always at the same place, and evenly spread over keys.

    A version that gets the first 5% keeps the keys of its first 1%. The salt gives every deployment
    another order.
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=salt.encode()[:64], digest_size=8)
    return int.from_bytes(digest.digest(), "big") / 2**64
