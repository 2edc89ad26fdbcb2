"""Shadow: the first version answers everybody, and the second is asked the same, unseen."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from .spec import Shadow
from .strategy import Clock, Strategy, encode


class ShadowState(msgspec.Struct):
    """What is kept.

    Attributes:
        live: The version that answers.
        is_paused: Whether nothing is mirrored.
        num_compared: Mirrored requests that both versions answered.
        num_agreed: Those whose answers agree.
        similarity: The sum of how alike they were, each from 0 to 1.
        num_dropped: Requests that were not mirrored as too many were pending.
        num_given_up: Mirrored requests that ran out of time, or whose server drained.
    """

    live: str
    is_paused: bool = False
    num_compared: int = 0
    num_agreed: int = 0
    similarity: float = 0.0
    num_dropped: int = 0
    num_given_up: int = 0


class ShadowStrategy(Strategy):
    """Who mirrors reports what came of it: `dropped`, `gave_up` or `compared`."""

    actions = ("promote", "pause", "resume")

    def __init__(
        self, settings: Shadow, versions: Sequence[str], clock: Clock, rng: random.Random, salt: str
    ) -> None:
        super().__init__(versions, clock, rng)
        self.settings = settings
        self.state = ShadowState(self.versions[0])

    @property
    def shadow(self) -> str:
        """The version that is asked unseen."""
        first, second = self.versions
        return second if self.state.live == first else first

    def choose(self, key: str | None) -> str:
        """The live version."""
        return self.state.live

    def mirror(self) -> str | None:
        """The other one, for as many requests as the settings say."""
        if self.state.is_paused or self.rng.random() >= self.settings.sample:
            return None
        return self.shadow

    def dropped(self) -> None:
        """A request that should have been mirrored was not: too many are pending."""
        self.state.num_dropped += 1

    def gave_up(self) -> None:
        """A mirrored request was cancelled."""
        self.state.num_given_up += 1

    def compared(self, similarity: float) -> None:
        """Both versions answered, this much alike; 1 is agreement."""
        self.state.num_compared += 1
        self.state.num_agreed += similarity >= 1.0
        self.state.similarity += similarity

    def promote(self, why: str) -> None:
        """Makes the shadow the live version, and the live one the shadow."""
        self.state = ShadowState(self.shadow, self.state.is_paused)
        self.note("promoted", why, live=self.state.live)

    def pause(self, why: str) -> None:
        """Mirrors nothing."""
        self.state.is_paused = True
        self.note("paused", why)

    def resume(self, why: str) -> None:
        """Mirrors again."""
        self.state.is_paused = False
        self.note("resumed", why)

    def shares(self) -> dict[str, float]:
        """All answers are the live version's."""
        return {version: float(version == self.state.live) for version in self.versions}

    def describe(self) -> dict[str, Any]:
        """How alike the answers are."""
        state, n = self.state, self.state.num_compared
        return {
            "live": state.live,
            "shadow": self.shadow,
            "paused": state.is_paused,
            "compared": n,
            "agreement": state.num_agreed / n if n else None,
            "similarity": state.similarity / n if n else None,
            "dropped": state.num_dropped,
            "given_up": state.num_given_up,
        }

    def save(self) -> bytes:
        """The state as JSON."""
        return encode(self.state)

    def load(self, data: bytes) -> None:
        """Takes a state up."""
        state = msgspec.json.decode(data, type=ShadowState)
        if state.live in self.versions:
            self.state = state
