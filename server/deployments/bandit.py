"""A bandit: Thompson sampling, which sends a request to each version as often as that may be the best.

Each version's chance of a reward has a Beta posterior: Beta(1, 1) at first, and a reward r from 0 to 1 adds
r to its first parameter and 1 - r to its second. For each request a chance is drawn from every posterior, and
the highest one answers (W. R. Thompson, 1933; for rewards between 0 and 1 see Agrawal and Goyal, 2012, whose
coin toss is left out: the mean is the same, and the posterior a little wider than it need be).
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import msgspec

from ...errors import InvalidRequest
from .spec import Bandit
from .strategy import Clock, Strategy, encode
from .tally import Outcome

MOST_KEYS = 10_000
NUM_DRAWS = 400


class Arm(msgspec.Struct):
    """A version's posterior.

    Attributes:
        gains: Rewards.
        losses: What rewards lacked to 1.
    """

    gains: float = 0.0
    losses: float = 0.0

    @property
    def mean(self) -> float:
        """The expected reward."""
        return (self.gains + 1) / (self.gains + self.losses + 2)


class BanditState(msgspec.Struct):
    """What is kept: the posteriors, and the version that alone has the traffic, if an operator said so."""

    arms: dict[str, Arm]
    pinned: str | None = None


class BanditStrategy(Strategy):
    """Rewards may come late, in any order, or never: only those that came count."""

    actions = ("promote", "resume")
    actions_with_version = ("promote",)

    def __init__(
        self, settings: Bandit, versions: Sequence[str], clock: Clock, rng: random.Random, salt: str
    ) -> None:
        super().__init__(versions, clock, rng)
        self.settings = settings
        self.hang_seconds = settings.hang_seconds
        self.state = BanditState({version: Arm() for version in self.versions})
        self._kept: OrderedDict[str, str] = OrderedDict()

    def choose(self, key: str | None) -> str:
        """A version, drawn; a key keeps its own until `MOST_KEYS` others have come."""
        if self.state.pinned is not None:
            return self.state.pinned
        if key is None:
            return self._draw(self.rng)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = self._draw(self.rng)
            if len(self._kept) > MOST_KEYS:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        return kept

    def fallback(self, version: str) -> str | None:
        """The best of the others."""
        others = [each for each in self.versions if each != version]
        return max(others, key=lambda each: self.state.arms[each].mean)

    def observe(self, version: str, outcome: Outcome, seconds: float) -> None:
        """With rewards by latency, the reward."""
        target = self.settings.target_seconds
        if target is not None and outcome is not Outcome.VOID:
            self._reward(version, float(outcome is Outcome.SUCCEEDED and seconds <= target))

    def score(self, version: str, value: float) -> None:
        """With rewards by feedback, the reward. Raises `InvalidRequest` if it is not from 0 to 1."""
        if self.settings.reward != "feedback":
            raise InvalidRequest(
                "this deployment's rewards come from latencies, not from feedback", param="score"
            )
        if not 0 <= value <= 1:
            raise InvalidRequest(f"the score of a bandit must be from 0 to 1, not {value!r}", param="score")
        self._reward(version, value)

    def promote(self, why: str, version: str | None = None) -> None:
        """Gives all traffic to a version, by default the best."""
        if version is None:
            version = max(self.versions, key=lambda each: self.state.arms[each].mean)
        self.check_version(version)
        self.state.pinned = version
        self.note("promoted", why, version=version, means=self._means())

    def resume(self, why: str) -> None:
        """Goes on learning after `promote`."""
        if self.state.pinned is None:
            raise InvalidRequest("the bandit is learning already", param="action")
        self.state.pinned = None
        self._kept.clear()
        self.note("resumed", why)

    def shares(self) -> dict[str, float]:
        """How often each version is drawn: estimated, always from the same random numbers."""
        if self.state.pinned is not None:
            return {version: float(version == self.state.pinned) for version in self.versions}
        counts = dict.fromkeys(self.versions, 0)
        rng = random.Random(0)
        for _ in range(NUM_DRAWS):
            counts[self._draw(rng)] += 1
        return {version: count / NUM_DRAWS for version, count in counts.items()}

    def describe(self) -> dict[str, Any]:
        """The posteriors."""
        arms = self.state.arms
        return {
            "arms": {
                version: {"alpha": 1 + arm.gains, "beta": 1 + arm.losses, "mean": arm.mean}
                for version, arm in arms.items()
            },
            "pinned": self.state.pinned,
        }

    def save(self) -> bytes:
        """The state as JSON."""
        return encode(self.state)

    def load(self, data: bytes) -> None:
        """Takes a state up; a version that was not there before begins anew."""
        state = msgspec.json.decode(data, type=BanditState)
        self.state.arms = {version: state.arms.get(version, Arm()) for version in self.versions}
        self.state.pinned = state.pinned if state.pinned in self.versions else None

    def _draw(self, rng: random.Random) -> str:
        draws = {
            version: rng.betavariate(1 + arm.gains, 1 + arm.losses)
            for version, arm in self.state.arms.items()
        }
        return max(self.versions, key=draws.__getitem__)

    def _reward(self, version: str, value: float) -> None:
        if self.settings.half_life is not None:
            keep = 0.5 ** (1 / self.settings.half_life)
            for arm in self.state.arms.values():
                arm.gains *= keep
                arm.losses *= keep
        arm = self.state.arms[version]
        arm.gains += value
        arm.losses += 1 - value

    def _means(self) -> dict[str, float]:
        return {version: round(arm.mean, 4) for version, arm in self.state.arms.items()}
