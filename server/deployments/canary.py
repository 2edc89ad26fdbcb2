"""Canary: a candidate gets more and more of the traffic, and falls back to nothing if it is worse.

Three tests compare the candidate with the stable version, in windows of requests, each made so that a
candidate which is as good is rolled back in a window with a probability of at most about alpha (see
`statistics`):

- **errors**: Fisher's exact test on failed and successful requests, whenever the candidate fails. While the
  stable version has too few requests for that, a binomial test against `max_error_rate`, or its own rate
  if that is higher. Each has alpha / 2.
- **latency**: a Mann-Whitney test on latencies, the candidate's divided by `latency_ratio`, at 10, 20, 40,
  ... requests of the candidate; and, for the tail, Fisher's test on how many requests take longer than
  `latency_ratio` times the stable version's p99. Each has alpha / 2.
- **scores**, if `score_tolerance` is set: a Mann-Whitney test on what clients said, at 10, 20, 40, ...
  scores.

A hang is no matter of statistics: a request that shows no sign of life for `hang_seconds` breaks a promise,
and the first one ends the rollout, unless the stable version hung in this window, too; then it is a failure
like others. A request that hangs at the candidate is given up, and the stable version answers it; at the
stable version it goes on.

A candidate that fails every request is found within 2 requests at 1% of the traffic and within 10 at 50%.
Within 50 of its requests, one is found that fails every second one or takes twice as long as `latency_ratio`
allows; and at 1% or 5%, where there is more to compare with, one that fails one in four.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from ...errors import InvalidRequest
from .spec import Canary
from .statistics import binomial_greater, fisher_greater, level, quantile, rank_sum_greater
from .strategy import Clock, Strategy, encode, place
from .tally import Outcome, Tally

FEWEST_STABLE = 20
FEWEST_FOR_TAIL = 100
FIRST_LOOK = 10

Phase = Literal["running", "paused", "rolled_back", "completed"]


class Window(msgspec.Struct):
    """What the tests look at.

    Attributes:
        candidate, stable: The requests since the window began.
        baseline: The stable version's of the window before: what there is to compare with at first.
        latency_looks, score_looks, num_slow: Tests that were made, which each make the next one stricter.
    """

    candidate: Tally = msgspec.field(default_factory=Tally)
    stable: Tally = msgspec.field(default_factory=Tally)
    baseline: Tally = msgspec.field(default_factory=Tally)
    latency_looks: int = 0
    score_looks: int = 0
    num_slow: int = 0

    def next(self) -> Window:
        """The window after this one."""
        enough = self.stable.num_judged >= FEWEST_STABLE or not self.baseline.num_judged
        return Window(baseline=self.stable if enough else self.baseline)

    @property
    def stable_latencies(self) -> list[float]:
        """Those there are, of this window and the one before."""
        return self.stable.latencies.values + self.baseline.latencies.values

    @property
    def stable_scores(self) -> list[float]:
        """Likewise."""
        return self.stable.scores.values + self.baseline.scores.values


class CanaryState(msgspec.Struct):
    """What is kept.

    Attributes:
        phase: How far the rollout is.
        step: The number of the step, from 0.
        step_seconds: How long the step has lasted.
        step_requests: Requests of the candidate that were judged in this step.
        window: See there.
        reason: Why it was rolled back.
    """

    phase: Phase = "running"
    step: int = 0
    step_seconds: float = 0.0
    step_requests: int = 0
    window: Window = msgspec.field(default_factory=Window)
    reason: str | None = None


class CanaryStrategy(Strategy):
    """The first version is stable, the second the candidate."""

    actions = ("promote", "rollback", "pause", "resume", "restart")

    def __init__(
        self, settings: Canary, versions: Sequence[str], clock: Clock, rng: random.Random, salt: str
    ) -> None:
        super().__init__(versions, clock, rng)
        self.settings = settings
        self.hang_seconds = settings.hang_seconds
        self.stable, self.candidate = self.versions
        self.state = CanaryState()
        self._salt = salt
        self._last_tick = clock()
        self._p99 = (0, 0.0)  # of the stable version, and the number of latencies when it was computed

    @property
    def share(self) -> float:
        """The candidate's share of the requests."""
        if self.state.phase == "rolled_back":
            return 0.0
        return 1.0 if self.state.phase == "completed" else self.settings.steps[self.state.step] / 100

    @property
    def primary(self) -> str:
        """The stable version, until the rollout is complete."""
        return self.candidate if self.state.phase == "completed" else self.stable

    def choose(self, key: str | None) -> str:
        """The candidate for its share; a key that has it keeps it while the share grows."""
        where = self.rng.random() if key is None else place(key, self._salt)
        return self.candidate if where < self.share else self.stable

    def fallback(self, version: str) -> str | None:
        """The stable version answers where the candidate fails, until the rollout is complete."""
        return self.stable if version == self.candidate and self.state.phase != "completed" else None

    def observe(self, version: str, outcome: Outcome, seconds: float) -> None:
        """Books a request's end, and looks whether the candidate is worse."""
        state, window = self.state, self.state.window
        if state.phase not in ("running", "paused"):
            return
        if version == self.stable:
            window.stable.add(outcome, seconds)
            return
        window.candidate.add(outcome, seconds)
        if outcome is Outcome.VOID:
            return
        state.step_requests += 1
        if outcome is Outcome.HUNG:
            self._test_hang()
        if outcome.is_failure:
            self._test_errors()
        else:
            self._test_latency()
        if window.candidate.num_judged >= self.settings.window_requests and not self._is_rolled_back:
            state.window = window.next()

    def score(self, version: str, value: float) -> None:
        """Books what a client said."""
        window = self.state.window
        if self.state.phase not in ("running", "paused"):
            return
        if version == self.stable:
            window.stable.scores.add(value)
            return
        window.candidate.scores.add(value)
        self._test_scores()

    def tick(self) -> None:
        """Goes to the next step if this one has passed."""
        now, state = self.clock(), self.state
        elapsed, self._last_tick = now - self._last_tick, now
        if state.phase != "running":
            return
        state.step_seconds += elapsed
        long_enough = state.step_seconds >= self.settings.step_seconds
        if self.settings.automatic and long_enough and state.step_requests >= self.settings.step_requests:
            self._advance(
                f"{state.step_requests} requests in {state.step_seconds:.0f} s, "
                f"{state.window.candidate.num_failed} of the latest failed"
            )

    def promote(self, why: str) -> None:
        """Goes to the next step now; behind the last one, the rollout is complete."""
        if self.state.phase not in ("running", "paused"):
            raise InvalidRequest(
                f"the rollout is {self._phase_text}: nothing is left to promote", param="action"
            )
        self._advance(why)

    def rollback(self, why: str) -> None:
        """Takes all traffic from the candidate, even after the rollout was complete."""
        if self.state.phase == "rolled_back":
            raise InvalidRequest("the rollout is rolled back already", param="action")
        self._roll_back(why)

    def pause(self, why: str) -> None:
        """Stays at this step; a candidate that is worse is still rolled back."""
        if self.state.phase != "running":
            raise InvalidRequest(f"the rollout is {self._phase_text}", param="action")
        self.state.phase = "paused"
        self.note("paused", why, step=self.state.step)

    def resume(self, why: str) -> None:
        """Goes on after a pause."""
        if self.state.phase != "paused":
            raise InvalidRequest(f"the rollout is {self._phase_text}, not paused", param="action")
        self.state.phase = "running"
        self.note("resumed", why, step=self.state.step)

    def restart(self, why: str) -> None:
        """Begins at the first step, with empty books."""
        self.state = CanaryState()
        self.note("restarted", why)

    def shares(self) -> dict[str, float]:
        """The candidate's share, and the rest."""
        return {self.stable: 1 - self.share, self.candidate: self.share}

    def describe(self) -> dict[str, Any]:
        """The step, and what the tests look at."""
        state, window = self.state, self.state.window
        return {
            "phase": state.phase,
            "reason": state.reason,
            "step": state.step,
            "percent": 100 * self.share,
            "step_seconds": round(state.step_seconds, 1),
            "step_requests": state.step_requests,
            "window": {
                role: {
                    "requests": tally.num_judged,
                    "failed": tally.num_failed,
                    "hung": tally.num_hung,
                    "p50_seconds": quantile(tally.latencies.values, 0.5) if tally.latencies.values else None,
                    "p99_seconds": quantile(tally.latencies.values, 0.99) if tally.latencies.values else None,
                    "mean_score": sum(tally.scores.values) / len(tally.scores.values)
                    if tally.scores.values
                    else None,
                }
                for role, tally in (
                    ("stable", window.stable),
                    ("candidate", window.candidate),
                    ("baseline", window.baseline),
                )
            },
        }

    def save(self) -> bytes:
        """The state as JSON."""
        return encode(self.state)

    def load(self, data: bytes) -> None:
        """Takes a state up; a step that is no more is the last one."""
        self.state = msgspec.json.decode(data, type=CanaryState)
        self.state.step = min(self.state.step, len(self.settings.steps) - 1)

    @property
    def _is_rolled_back(self) -> bool:
        return self.state.phase == "rolled_back"

    @property
    def _phase_text(self) -> str:
        return self.state.phase.replace("_", " ")

    def _advance(self, why: str) -> None:
        state = self.state
        if state.step + 1 < len(self.settings.steps):
            self.state = CanaryState(step=state.step + 1, window=state.window.next())
            self.note("step", why, step=self.state.step, percent=self.settings.steps[self.state.step])
        else:
            state.phase = "completed"
            self.note("promoted", why, version=self.candidate)

    def _roll_back(self, why: str, **details: Any) -> None:
        state = self.state
        state.phase, state.reason = "rolled_back", why
        tally = state.window.candidate
        requests = {"requests": tally.num_judged, "failed": tally.num_failed, "hung": tally.num_hung}
        self.note("rolled_back", why, version=self.candidate, step=state.step, **requests, **details)

    def _reject(self, p: float, alpha: float, look: int, why: str) -> bool:
        """Rolls back if a p-value is below what this look may spend."""
        if self._is_rolled_back or p > level(alpha, look):
            return False
        self._roll_back(why, p_value=float(f"{p:.2g}"))
        return True

    def _test_hang(self) -> None:
        window = self.state.window
        if not window.stable.num_hung:
            self._roll_back(f"a request to {self.candidate} hung for {self.settings.hang_seconds:g} s")

    def _test_errors(self) -> None:
        window, alpha = self.state.window, self.settings.alpha / 2
        k, n = window.candidate.num_failed, window.candidate.num_judged
        other_k = window.stable.num_failed + window.baseline.num_failed
        other_n = window.stable.num_judged + window.baseline.num_judged
        if other_n >= FEWEST_STABLE:
            p = fisher_greater(k, n, other_k, other_n)
            self._reject(
                p, alpha, k, f"{k} of {n} requests failed, of the stable version's {other_k} of {other_n}"
            )
        else:
            rate = max(self.settings.max_error_rate, other_k / max(1, other_n))
            p = binomial_greater(k, n, rate)
            self._reject(p, alpha, k, f"{k} of {n} requests failed, more than {rate:.3g} of them allows")

    def _test_latency(self) -> None:
        window, alpha = self.state.window, self.settings.alpha / 2
        ours, theirs = window.candidate.latencies.values, window.stable_latencies
        if len(theirs) < FEWEST_STABLE:
            return
        if len(ours) >= FIRST_LOOK << window.latency_looks:
            window.latency_looks += 1
            forgiving = [self._forgive(value) for value in ours]
            p = rank_sum_greater(forgiving, theirs)
            ratio = quantile(ours, 0.5) / max(quantile(theirs, 0.5), 1e-9)
            why = f"it is slower: the median latency is {ratio:.2f} times the stable version's"
            if self._reject(p, alpha, window.latency_looks, why):
                return
        if len(theirs) < FEWEST_FOR_TAIL:
            return
        p99 = self._stable_p99(theirs)
        if self._forgive(window.candidate.latencies.last) <= p99:
            return
        # Both samples against the same bound: that it was estimated from one of them is in both.
        k, other_k = (sum(self._forgive(value) > p99 for value in values) for values in (ours, theirs))
        window.num_slow += 1
        p = fisher_greater(k, len(ours), other_k, len(theirs))
        why = (
            f"{k} of {len(ours)} requests took more than {self.settings.latency_ratio:g} times "
            f"the stable version's p99 of {p99:.3g} s"
        )
        self._reject(p, alpha, window.num_slow, why)

    def _stable_p99(self, latencies: Sequence[float]) -> float:
        """The stable version's p99, computed anew when there are 5% more latencies."""
        window = self.state.window
        num = window.stable.latencies.num_added + window.baseline.latencies.num_added
        if not self._p99[0] <= num < 1.05 * self._p99[0]:
            self._p99 = num, quantile(latencies, 0.99)
        return self._p99[1]

    def _forgive(self, seconds: float) -> float:
        """A latency of the candidate, less what it may be slower."""
        return min(seconds / self.settings.latency_ratio, seconds - self.settings.latency_floor)

    def _test_scores(self) -> None:
        window, tolerance = self.state.window, self.settings.score_tolerance
        ours, theirs = window.candidate.scores.values, window.stable_scores
        if tolerance is None or len(theirs) < FEWEST_STABLE or len(ours) < FIRST_LOOK << window.score_looks:
            return
        window.score_looks += 1
        p = rank_sum_greater(theirs, [value + tolerance for value in ours])
        means = (sum(ours) / len(ours), sum(theirs) / len(theirs))
        why = f"its answers score lower: {means[0]:.3g} on average, the stable version's {means[1]:.3g}"
        self._reject(p, self.settings.alpha, window.score_looks, why)
