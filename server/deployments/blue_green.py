"""Blue-green: one version has all the traffic, and a switch moves it at once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import msgspec

from ...errors import InvalidRequest
from .spec import BlueGreen
from .strategy import Clock, Strategy, encode


class BlueGreenState(msgspec.Struct):
    """What is kept.

    Attributes:
        active: The version that answers.
        previous: The one before the last switch.
    """

    active: str
    previous: str | None = None


class BlueGreenStrategy(Strategy):
    """Requests that run when a switch comes end where they began."""

    actions = ("switch", "rollback")
    actions_with_version = ("switch",)

    def __init__(
        self, settings: BlueGreen, versions: Sequence[str], clock: Clock, rng: random.Random, salt: str
    ) -> None:
        super().__init__(versions, clock, rng)
        self.state = BlueGreenState(self.versions[0])

    def choose(self, key: str | None) -> str:
        """The active version."""
        return self.state.active

    def switch(self, why: str, version: str | None = None) -> None:
        """Makes a version the active one: of two, the other."""
        if version is None:
            others = [each for each in self.versions if each != self.state.active]
            if len(others) != 1:
                raise InvalidRequest(f"say which version: {', '.join(others)}", param="version")
            (version,) = others
        self.check_version(version)
        if version == self.state.active:
            raise InvalidRequest(f"{version} is the active version", param="version")
        self.state = BlueGreenState(version, self.state.active)
        self.note("switched", why, active=version, previous=self.state.previous)

    def rollback(self, why: str) -> None:
        """Switches back."""
        if self.state.previous is None:
            raise InvalidRequest("there was no switch that could be taken back", param="action")
        self.switch(why, self.state.previous)

    def shares(self) -> dict[str, float]:
        """All for the active one."""
        return {version: float(version == self.state.active) for version in self.versions}

    def describe(self) -> dict[str, Any]:
        """Which is active."""
        return {"active": self.state.active, "previous": self.state.previous}

    def save(self) -> bytes:
        """The state as JSON."""
        return encode(self.state)

    def load(self, data: bytes) -> None:
        """Takes a state up."""
        state = msgspec.json.decode(data, type=BlueGreenState)
        if state.active in self.versions:
            self.state = state
