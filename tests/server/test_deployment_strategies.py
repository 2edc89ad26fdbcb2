"""The strategies, in simulated traffic: an injected clock, seeded chance, no server."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from quire.errors import InvalidRequest
from quire.server.deployments.deployment import Deployment
from quire.server.deployments.spec import read_spec
from quire.server.deployments.tally import Outcome

Behaviour = Callable[[random.Random], tuple[Outcome, float]]
OLD, NEW = "old", "new"


def behaves(*, fails: float = 0.0, median: float = 0.02, spread: float = 0.3) -> Behaviour:
    """A version that fails so often, with log-normal latencies of such a median."""

    def once(rng: random.Random) -> tuple[Outcome, float]:
        failed = rng.random() < fails
        return (Outcome.FAILED if failed else Outcome.SUCCEEDED), median * rng.lognormvariate(0, spread)

    return once


class Traffic:
    """A deployment, its clock, and requests that come one after another."""

    def __init__(self, seed: int = 0, *, rate: float = 200.0, **spec: Any) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.interval = 1 / rate
        made = read_spec({"name": "endpoint", "versions": [OLD, NEW]} | spec)
        self.deployment = Deployment(made, lambda: self.now, random.Random(seed + 1))
        self.counts: Counter[str] = Counter()
        self.events: list[str] = []

    @property
    def strategy(self) -> Any:
        return self.deployment.strategy

    def send(self, number: int, old: Behaviour, new: Behaviour, key: str | None = None) -> None:
        """So many requests."""
        for _ in range(number):
            attempt = self.deployment.choose(key)
            outcome, seconds = (old if attempt.version.id == OLD else new)(self.rng)
            self.counts[attempt.version.id] += 1
            started, self.now = self.now, self.now + seconds
            attempt.end(outcome)
            self.now = started + self.interval
            self.deployment.tick()
            self.events += [event.what for event in self.deployment.take_events()]

    def until(self, what: str, old: Behaviour, new: Behaviour, most: int) -> bool:
        """Sends until there is an event, or so many requests were sent."""
        while what not in self.events and sum(self.counts.values()) < most:
            self.send(1, old, new)
        return what in self.events


def canary(
    seed: int = 0, *, rate: float = 200.0, sticky: str = "none", name: str = "endpoint", **settings: Any
) -> Traffic:
    return Traffic(seed, rate=rate, sticky=sticky, name=name, strategy={"type": "canary"} | settings)


# Canary

FAILS, FAILS_HALF, FAILS_QUARTER = behaves(fails=1.0), behaves(fails=0.5), behaves(fails=0.25)
SLOW = behaves(median=0.06)  # twice of what `latency_ratio` allows


@pytest.mark.parametrize(
    ("bad", "first_step"),
    [
        *((bad, step) for bad in (FAILS, FAILS_HALF, SLOW) for step in (1, 5, 25, 50)),
        *((FAILS_QUARTER, step) for step in (1, 5)),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_bad_canary_is_rolled_back_within_fifty_of_its_requests(
    bad: Behaviour, first_step: int, seed: int
) -> None:
    traffic = canary(seed, steps=[first_step, 100], step_requests=1000)
    assert traffic.until("rolled_back", behaves(fails=0.002), bad, 20_000), traffic.strategy.describe()
    assert traffic.counts[NEW] <= 50
    before = traffic.counts[NEW]
    traffic.send(500, behaves(), bad)
    assert traffic.counts[NEW] == before
    assert traffic.strategy.describe()["phase"] == "rolled_back"


def test_a_canary_as_good_as_the_stable_version_is_seldom_rolled_back() -> None:
    rejected = 0
    for seed in range(20):
        alike = behaves(fails=0.02, spread=0.8)
        traffic = canary(seed, step_requests=100, step_seconds=1)
        traffic.until("promoted", alike, alike, 40_000)
        rejected += "rolled_back" in traffic.events
        assert "promoted" in traffic.events or "rolled_back" in traffic.events
    # Five steps at alpha = 1% for errors and 1% for latencies: at most 10% of the rollouts, and the tests
    # are conservative.
    assert rejected <= 1, rejected


def test_a_canary_that_is_a_little_slower_passes() -> None:
    traffic = canary(3, step_requests=100, step_seconds=1)
    assert traffic.until("promoted", behaves(), behaves(median=0.024), 50_000)


def test_a_tail_that_is_worse_is_found_where_the_median_is_the_same() -> None:
    def tailed(rng: random.Random) -> tuple[Outcome, float]:
        return Outcome.SUCCEEDED, 1.0 if rng.random() < 0.1 else 0.02 * rng.lognormvariate(0, 0.3)

    traffic = canary(1, steps=[25, 100], step_requests=2000)
    assert traffic.until("rolled_back", behaves(), tailed, 10_000)
    assert "p99" in traffic.strategy.state.reason
    assert traffic.counts[NEW] <= 200


def test_steps_follow_when_requests_and_time_have_passed() -> None:
    traffic = canary(2, step_requests=50, step_seconds=20, steps=[10, 50, 100])
    good = behaves()
    traffic.send(3900, good, good)  # 19.5 s and many requests
    assert traffic.strategy.state.step == 0
    traffic.send(110, good, good)
    assert traffic.strategy.state.step == 1
    quick = canary(2, step_requests=50, step_seconds=0, steps=[10, 50, 100])
    quick.send(100, good, good)  # 10 of the candidate's requests and no time to wait for
    assert quick.strategy.state.step == 0
    quick.send(2000, good, good)
    assert quick.strategy.describe()["phase"] == "completed"
    assert quick.events == ["step", "step", "promoted"]
    quick.send(100, good, good)
    assert quick.deployment.choose(None).version.id == NEW


def test_shares_are_kept() -> None:
    traffic = canary(4, steps=[5, 100], step_requests=10_000_000)
    traffic.send(20_000, behaves(), behaves())
    assert 0.04 < traffic.counts[NEW] / 20_000 < 0.06


def test_clients_own_mistakes_are_no_evidence() -> None:
    def void(rng: random.Random) -> tuple[Outcome, float]:
        return Outcome.VOID, 0.001

    traffic = canary(5, steps=[50, 100], step_requests=10, step_seconds=0)
    traffic.send(1000, behaves(), void)
    assert traffic.events == []
    assert traffic.strategy.describe()["window"]["candidate"]["requests"] == 0


def test_a_hang_ends_the_rollout_while_the_request_still_hangs() -> None:
    traffic = canary(6, steps=[50, 100], hang_seconds=5)
    traffic.send(100, behaves(), behaves())
    while (attempt := traffic.deployment.choose(None)).version.id != NEW:
        attempt.end(Outcome.SUCCEEDED)
    told: list[bool] = []
    attempt.on_hang = lambda: told.append(True)
    attempt.waits()
    traffic.now += 4.9
    traffic.deployment.tick()
    assert not told
    traffic.now += 0.2
    traffic.deployment.tick()
    assert told == [True]
    assert traffic.strategy.describe()["phase"] == "rolled_back"
    attempt.end(Outcome.SUCCEEDED)  # too late
    totals = traffic.deployment.totals[NEW].outcomes
    assert totals[Outcome.HUNG] == 1
    assert sum(totals.values()) == traffic.counts[NEW] + 1


def test_a_long_answer_that_comes_piece_by_piece_does_not_hang_nor_one_that_nobody_reads() -> None:
    traffic = canary(7, steps=[100], hang_seconds=5)
    attempt = traffic.deployment.choose(None)
    attempt.waits()
    for _ in range(10):
        traffic.now += 4
        traffic.deployment.tick()
        attempt.lives()
        traffic.now += 60  # the client is slow to read
        traffic.deployment.tick()
        attempt.waits()
    assert attempt.outcome is None
    traffic.now += 5
    traffic.deployment.tick()
    assert attempt.outcome is Outcome.HUNG


def test_where_the_stable_version_hangs_too_a_hang_is_a_failure_like_others() -> None:
    traffic = canary(8, steps=[50, 100], hang_seconds=5, step_requests=10_000)
    hangs_sometimes: Behaviour = lambda rng: (  # noqa: E731
        Outcome.HUNG if rng.random() < 0.02 else Outcome.SUCCEEDED,
        0.02,
    )
    traffic.strategy.observe(OLD, Outcome.HUNG, 5.0)
    traffic.send(300, hangs_sometimes, hangs_sometimes)
    assert traffic.events == []


def test_a_key_stays_where_it_is_while_the_share_grows() -> None:
    traffic = canary(9, sticky="key", steps=[5, 25, 100])
    keys = [f"client-{number}" for number in range(2000)]
    seen: dict[str, set[str]] = {key: set() for key in keys}
    shares = []
    for _ in range(3):
        where = {key: traffic.strategy.choose(key) for key in keys}
        assert where == {key: traffic.strategy.choose(key) for key in keys}
        for key, version in where.items():
            assert not (NEW in seen[key] and version == OLD)
            seen[key].add(version)
        shares.append(sum(version == NEW for version in where.values()) / len(keys))
        traffic.deployment.act("promote", "test")
    assert shares[0] == pytest.approx(0.05, abs=0.02)
    assert shares[1] == pytest.approx(0.25, abs=0.04)
    assert shares[2] == 1.0


def test_each_deployment_tries_its_candidate_on_other_clients() -> None:
    strategies = [canary(name=name, sticky="key", steps=[5, 100]).strategy for name in ("one", "other")]
    chosen = [{key for key in map(str, range(4000)) if one.choose(key) == NEW} for one in strategies]
    assert len(chosen[0] & chosen[1]) < len(chosen[0]) / 2


def test_the_last_step_compares_with_what_the_stable_version_did_before() -> None:
    traffic = canary(12, steps=[50, 100], step_requests=1_000)
    traffic.send(400, behaves(), behaves())
    traffic.deployment.act("promote", "test")
    traffic.send(60, behaves(), SLOW)
    assert "slower" in traffic.strategy.state.reason


def test_scores_count_if_they_are_meant_to() -> None:
    for tolerance, phase in ((0.05, "rolled_back"), (None, "running")):
        traffic = canary(10, steps=[50, 100], step_requests=10_000, score_tolerance=tolerance)
        for _ in range(100):
            traffic.deployment.score(OLD, min(1.0, traffic.rng.gauss(0.8, 0.1)))
            traffic.deployment.score(NEW, traffic.rng.gauss(0.6, 0.1))
        assert traffic.strategy.describe()["phase"] == phase


def test_an_operator_can_pause_promote_roll_back_and_start_anew() -> None:
    traffic = canary(11, step_requests=1, step_seconds=0)
    traffic.deployment.act("pause", "lunch")
    traffic.send(500, behaves(), behaves())
    assert traffic.strategy.state.step == 0
    with pytest.raises(InvalidRequest, match="paused"):
        traffic.deployment.act("pause", "again")
    traffic.deployment.act("resume", "back")
    traffic.deployment.act("promote", "in a hurry")
    assert traffic.strategy.state.step == 1
    traffic.deployment.act("rollback", "a complaint")
    assert traffic.deployment.choose(None).version.id == OLD
    for action in ("promote", "rollback", "resume"):
        with pytest.raises(InvalidRequest, match="rolled back"):
            traffic.deployment.act(action, "no")
    traffic.deployment.act("restart", "mended")
    assert traffic.strategy.describe()["percent"] == 1
    with pytest.raises(InvalidRequest, match="explode"):
        traffic.deployment.act("explode", "no")


# Bandit


def pull(traffic: Traffic, number: int, chances: dict[str, float]) -> list[str]:
    chosen = []
    for _ in range(number):
        attempt = traffic.deployment.choose(None)
        version = attempt.version.id
        attempt.end(Outcome.SUCCEEDED)
        traffic.deployment.score(version, float(traffic.rng.random() < chances[version]))
        chosen.append(version)
    return chosen


def test_a_bandit_sends_four_fifths_to_the_better_version_within_two_thousand_requests() -> None:
    shares, reached = [], 0
    for seed in range(20):
        traffic = Traffic(seed, strategy="bandit")
        chosen = pull(traffic, 2000, {OLD: 0.5, NEW: 0.6})
        shares.append(chosen.count(NEW) / 2000)
        reached += any(chosen[end - 200 : end].count(NEW) >= 160 for end in range(200, 2001))
    print("share of the better version, by seed:", shares)
    assert sum(shares) / 20 >= 0.8
    assert reached == 20


def test_a_bandit_with_a_half_life_follows_a_change() -> None:
    found = []
    for half_life in (200, None):
        traffic = Traffic(1, strategy={"type": "bandit", "half_life": half_life})
        pull(traffic, 4000, {OLD: 0.9, NEW: 0.1})
        found.append(pull(traffic, 600, {OLD: 0.1, NEW: 0.9}).count(NEW))
    assert found[0] > 400
    assert found[1] < 300


def test_a_bandit_can_learn_from_latencies_and_errors() -> None:
    strategy = {"type": "bandit", "reward": "latency", "target_seconds": 0.03}
    traffic = Traffic(2, strategy=strategy)
    traffic.send(1000, behaves(fails=0.5), behaves())
    assert traffic.counts[NEW] > 850
    slow = Traffic(3, strategy=strategy)
    slow.send(1000, behaves(), behaves(median=0.06))
    assert slow.counts[OLD] > 850
    with pytest.raises(InvalidRequest, match="not from feedback"):
        slow.deployment.score(OLD, 1.0)


def test_a_bandit_keeps_keys_and_can_be_decided() -> None:
    traffic = Traffic(4, strategy="bandit", sticky="key")
    kept = {key: traffic.strategy.choose(key) for key in map(str, range(100))}
    pull(traffic, 500, {OLD: 0.1, NEW: 0.9})
    assert kept == {key: traffic.strategy.choose(key) for key in kept}
    assert traffic.strategy.shares()[NEW] > 0.9
    traffic.deployment.act("promote", "enough", OLD)
    assert {traffic.strategy.choose(key) for key in kept} == {OLD}
    with pytest.raises(InvalidRequest, match="0 to 1"):
        traffic.deployment.score(OLD, 2.0)
    with pytest.raises(InvalidRequest, match="'third'"):
        traffic.deployment.score("third", 1.0)


# Blue-green and shadow


def test_blue_green_switches_at_once_and_back() -> None:
    traffic = Traffic(strategy="blue-green", versions=["a", "b", "c"])
    running = traffic.deployment.choose(None)
    with pytest.raises(InvalidRequest, match="b, c"):
        traffic.deployment.act("switch", "which?")
    traffic.deployment.act("switch", "new", "c")
    assert {traffic.strategy.choose(str(key)) for key in range(100)} == {"c"}
    assert running.version.id == "a"  # it ends where it began
    traffic.deployment.act("rollback", "no good")
    assert traffic.deployment.primary.id == "a"
    for wrong in ("a", "d"):
        with pytest.raises(InvalidRequest, match=wrong):
            traffic.deployment.act("switch", "no", wrong)
    assert [event.what for event in traffic.deployment.take_events()] == ["switched", "switched"]


def test_a_shadow_never_answers() -> None:
    traffic = Traffic(5, strategy={"type": "shadow", "sample": 0.25})
    mirrored = [traffic.strategy.mirror() for _ in range(4000)]
    assert set(mirrored) == {None, NEW}
    assert 0.22 < mirrored.count(NEW) / 4000 < 0.28
    assert {traffic.strategy.choose(None) for _ in range(100)} == {OLD}
    traffic.deployment.act("pause", "busy")
    assert {traffic.strategy.mirror() for _ in range(100)} == {None}
    traffic.deployment.act("promote", "it agrees")
    assert traffic.deployment.primary.id == NEW
    assert traffic.strategy.shadow == OLD


# All


@pytest.mark.parametrize("strategy", ["blue-green", "canary", "shadow", "bandit"])
def test_a_restart_goes_on_where_it_was(strategy: str) -> None:
    before = Traffic(6, strategy=strategy)
    before.send(300, behaves(fails=0.1), behaves())
    if strategy == "bandit":
        pull(before, 100, {OLD: 0.2, NEW: 0.7})
    action = {"blue-green": "switch", "canary": "promote", "shadow": "promote", "bandit": "promote"}[strategy]
    before.deployment.act(action, "test")
    after = Traffic(99, strategy=strategy)
    after.strategy.load(before.strategy.save())
    assert after.strategy.describe() == before.strategy.describe()
    assert after.strategy.save() == before.strategy.save()
    assert after.strategy.shares() == before.strategy.shares()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"versions": [OLD]}, "two versions"),
        ({"versions": [OLD, OLD]}, "same id"),
        ({"versions": [OLD, "x" * 300]}, "not a version's id"),
        ({"name": "a b"}, "'a b'"),
        ({"name": "a/b"}, "'a/b'"),
        ({"name": "../x\n"}, "letters, digits"),
        ({"strategy": "roulette"}, "roulette"),
        ({"strategy": {"type": "canary", "steps": [5, 1, 100]}}, r"\[5.0, 1.0, 100.0\]"),
        ({"strategy": {"type": "canary", "steps": [5, 50]}}, "end with 100"),
        ({"strategy": {"type": "canary", "alpha": 0}}, "alpha"),
        ({"strategy": {"type": "canary", "latency_ratio": float("nan")}}, "latency_ratio"),
        ({"strategy": {"type": "canary", "hang_seconds": float("inf")}}, "hang_seconds"),
        ({"strategy": {"type": "canary", "colour": "red"}}, "colour"),
        ({"strategy": {"type": "shadow", "sample": 1.5}}, "sample"),
        ({"strategy": {"type": "bandit", "reward": "latency"}}, "target_seconds"),
        ({"sticky": "header:"}, "header:"),
        ({"sticky": "cookie"}, "cookie"),
        ({"colour": 1}, "colour"),
    ],
)
def test_what_a_spec_may_not_say_is_named(wrong: dict[str, Any], named: str) -> None:
    right = {"name": "endpoint", "versions": [OLD, NEW], "strategy": "canary"}
    read_spec(right)
    with pytest.raises(InvalidRequest, match=named):
        read_spec(right | wrong)


def test_versions_can_be_written_briefly() -> None:
    spec = read_spec(
        {"name": "e", "versions": ["trees@1", {"model": "trees", "version": "2"}], "strategy": "shadow"}
    )
    assert spec.version_ids == ("trees@1", "trees@2")
    assert spec.versions[0].version == "1"
