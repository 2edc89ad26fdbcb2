"""One deployment: its strategy, the requests that are in it now, and what its versions have done so far."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from .spec import DeploymentSpec, Version
from .strategies import make_strategy
from .strategy import Clock, Event
from .tally import Outcome

if TYPE_CHECKING:
    from ...engine.managed_model import Kind


LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram's buckets, in seconds."""


class Totals(msgspec.Struct):
    """What a version has done since the deployment was made.

    Attributes:
        outcomes: Requests by outcome.
        num_mirrored: Those of them that were mirrored, which no client saw.
        num_retried: Failures that another version made good.
        buckets: Requests that succeeded, by latency: one more than there are bounds.
        seconds: Their latencies, summed.
        num_scores, scores: What clients said, summed.
    """

    outcomes: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(map(str, Outcome), 0))
    num_mirrored: int = 0
    num_retried: int = 0
    buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    seconds: float = 0.0
    num_scores: int = 0
    scores: float = 0.0

    def add(self, outcome: Outcome, seconds: float) -> None:
        """Books a request's end."""
        self.outcomes[outcome] += 1
        if outcome is Outcome.SUCCEEDED:
            self.seconds += seconds
            place = next(
                (i for i, bound in enumerate(LATENCY_BOUNDS) if seconds <= bound), len(LATENCY_BOUNDS)
            )
            self.buckets[place] += 1


class Attempt:
    """One request to one version, from its choice to its end.

    Attributes:
        deployment: Whose.
        version: The version that was chosen.
        is_mirrored: Whether no client sees the answer.
        is_last: Whether another version has failed on the same request before.
        outcome: How it ended; None while it runs.
        waiting_since: Since when the model owes a sign of life, by the deployment's clock; None for not.
        has_lived: Whether the model has given one.
        mirror_to: The version that is asked the same afterwards; None for none.
        answer: What it says, where that is to be compared: the kind of model knows how.
        on_hang: Called when it owed one for too long; the outcome is settled then.
    """

    __slots__ = (
        "_started",
        "answer",
        "deployment",
        "has_lived",
        "is_last",
        "is_mirrored",
        "mirror_to",
        "on_hang",
        "outcome",
        "version",
        "waiting_since",
    )

    def __init__(self, deployment: Deployment, version: Version, *, is_mirrored: bool) -> None:
        self.deployment = deployment
        self.version = version
        self.is_mirrored = is_mirrored
        self.is_last = False
        self.outcome: Outcome | None = None
        self.waiting_since: float | None = None
        self.has_lived = False
        self.mirror_to: str | None = None
        self.answer: object = None
        self.on_hang: Callable[[], None] | None = None
        self._started = deployment.clock()

    def begin(self) -> None:
        """The request starts now, and not when it was made."""
        self._started = self.deployment.clock()

    def waits(self) -> None:
        """From now on, the model owes a sign of life."""
        self.waiting_since = self.deployment.clock()

    def lives(self) -> None:
        """Something came; until `waits` is called, the model owes nothing."""
        self.waiting_since = None
        self.has_lived = True

    @property
    def fallback(self) -> str | None:
        """The version that may answer in place of this one; None for none."""
        if self.is_mirrored or self.is_last:
            return None
        return self.deployment.strategy.fallback(self.version.id)

    def end(self, outcome: Outcome) -> None:
        """Settles the outcome, unless it is settled."""
        if self.outcome is None:
            self.outcome = outcome
            self.deployment.ended(self, self.deployment.clock() - self._started)


class Deployment:
    """A named endpoint in front of some versions.

    Args:
        spec: What the owner wants.
        clock: Seconds, monotonic.
        rng: Where chance comes from.

    Attributes:
        totals: By version's id, for metrics.
        pending: Attempts that run.
        on_quiet: Called, once each, when no client waits for an answer any more.
        kind: What its versions are, once that is known.
        is_dirty: Whether something has changed that is to be kept on disk.
    """

    def __init__(self, spec: DeploymentSpec, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self._rng = rng
        self._set(spec)
        self.pending: set[Attempt] = set()
        self.on_quiet: list[Callable[[], None]] = []
        self.is_dirty = True

    def _set(self, spec: DeploymentSpec) -> None:
        self.spec = spec
        self.kind: Kind | None = None
        self.versions: Mapping[str, Version] = {version.id: version for version in spec.versions}
        self.strategy = make_strategy(spec, self.clock, self._rng)
        self.totals = {name: Totals() for name in self.versions}

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.spec.name

    @property
    def primary(self) -> Version:
        """The version that stands for all: what a client learns of the endpoint is this one's."""
        return self.versions[self.strategy.primary]

    @property
    def is_quiet(self) -> bool:
        """Whether no client waits for an answer."""
        return all(attempt.is_mirrored for attempt in self.pending)

    def choose(self, key: str | None) -> Attempt:
        """A new request, of a client who is known by `key` if the deployment is sticky."""
        return self.attempt(self.strategy.choose(key))

    def attempt(self, version: str, *, is_mirrored: bool = False) -> Attempt:
        """A new request to a version."""
        attempt = Attempt(self, self.versions[version], is_mirrored=is_mirrored)
        self.pending.add(attempt)
        return attempt

    def fall_back(self, failed: Attempt, version: str) -> Attempt:
        """A request that has failed goes to another version, before its client has seen anything."""
        if failed.version.id in self.totals:
            self.totals[failed.version.id].num_retried += 1
        attempt = self.attempt(version)
        attempt.is_last = True
        return attempt

    def ended(self, attempt: Attempt, seconds: float) -> None:
        """Books an attempt; called by itself."""
        self.pending.discard(attempt)
        version, outcome = attempt.version.id, attempt.outcome
        assert outcome is not None
        if version in self.totals:  # a change of the deployment may have taken the version away
            self.totals[version].add(outcome, seconds)
            self.totals[version].num_mirrored += attempt.is_mirrored
            self.strategy.observe(version, outcome, seconds)
            self.is_dirty = True
        if self.on_quiet and self.is_quiet:
            callbacks, self.on_quiet = self.on_quiet, []
            for callback in callbacks:
                callback()

    def score(self, version: str, value: float) -> None:
        """What a client said of an answer of a version. Raises `InvalidRequest`."""
        self.strategy.check_version(version)
        self.strategy.score(version, value)
        self.totals[version].num_scores += 1
        self.totals[version].scores += value
        self.is_dirty = True

    def tick(self) -> None:
        """Looks for what hangs, and whether the strategy has something to do."""
        limit = self.strategy.hang_seconds
        if limit is not None:
            now = self.clock()
            late = [
                each
                for each in self.pending
                if each.waiting_since is not None and now - each.waiting_since >= limit
            ]
            for attempt in late:
                attempt.end(Outcome.HUNG)
                if attempt.on_hang is not None:
                    attempt.on_hang()
        self.strategy.tick()

    def act(self, action: str, why: str, argument: str | None = None) -> None:
        """Does what an operator asks. Raises `InvalidRequest`."""
        self.strategy.act(action, why, argument)
        self.is_dirty = True

    def take_events(self) -> list[Event]:
        """The strategy's decisions since the last call."""
        events, self.strategy.events = self.strategy.events, []
        self.is_dirty |= bool(events)
        return events

    def change(self, spec: DeploymentSpec) -> None:
        """Another spec under the same name: the rollout begins anew; requests that run end where they are.

        The totals of versions that stay are kept.
        """
        totals = self.totals
        self._set(spec)
        self.totals |= {name: total for name, total in totals.items() if name in self.totals}
        self.is_dirty = True

    def describe(self) -> dict[str, Any]:
        """What the admin API tells."""
        shares = self.strategy.shares()
        pending = dict.fromkeys(self.versions, 0)
        for attempt in self.pending:
            if attempt.version.id in pending:
                pending[attempt.version.id] += 1
        return {
            "name": self.name,
            "strategy": msgspec.to_builtins(self.spec.strategy),
            "sticky": self.spec.sticky,
            "actions": list(self.strategy.actions),
            "state": self.strategy.describe(),
            "versions": [self._describe_version(name, shares[name], pending[name]) for name in self.versions],
        }

    def _describe_version(self, name: str, share: float, num_pending: int) -> dict[str, Any]:
        version, totals = self.versions[name], self.totals[name]
        return {
            "id": name,
            "model": version.model,
            "version": version.version,
            "share": round(share, 4),
            "pending": num_pending,
            "requests": dict(totals.outcomes),
            "mirrored": totals.num_mirrored,
            "retried": totals.num_retried,
            "mean_seconds": _mean(totals.seconds, totals.outcomes[Outcome.SUCCEEDED]),
            "mean_score": _mean(totals.scores, totals.num_scores),
        }


def _mean(total: float, number: int) -> float | None:
    return total / number if number else None
