"""The tests behind a canary: against scipy where it is there, against counting, and in their promise."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest

from quire.server.deployments.statistics import (
    binomial_greater,
    fisher_greater,
    level,
    normal_greater,
    quantile,
    rank_sum_greater,
)


@pytest.mark.parametrize("n", [1, 3, 7, 40])
@pytest.mark.parametrize("p", [Fraction(1, 2), Fraction(1, 20), Fraction(9, 10)])
def test_the_binomial_tail_is_the_sum_of_its_terms(n: int, p: Fraction) -> None:
    for k in range(n + 1):
        exact = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))
        assert binomial_greater(k, n, float(p)) == pytest.approx(float(exact), rel=1e-9)


def test_fishers_p_value_is_the_share_of_all_arrangements() -> None:
    for n, m in ((3, 4), (5, 2), (1, 6)):
        for k, other in itertools.product(range(n + 1), range(m + 1)):
            places = range(n + m)
            arrangements = list(itertools.combinations(places, k + other))
            at_least = sum(sum(place < n for place in chosen) >= k for chosen in arrangements)
            assert fisher_greater(k, n, other, m) == pytest.approx(at_least / len(arrangements), rel=1e-9)


def test_fisher_with_large_counts_is_right_and_quick() -> None:
    # 2 of 2 against 0 of 198: one arrangement of all.
    assert fisher_greater(2, 2, 0, 198) == pytest.approx(1 / math.comb(200, 2))
    assert fisher_greater(100, 100_000, 100, 100_000) == pytest.approx(0.53, abs=0.01)
    assert fisher_greater(0, 10, 5, 10) == 1.0
    assert fisher_greater(3, 3, 0, 0) == 1.0  # with nothing to compare there is no evidence


def test_the_rank_sum_goes_by_order_alone_and_knows_ties() -> None:
    low, high = [float(i) for i in range(20)], [float(i) for i in range(100, 120)]
    assert rank_sum_greater(high, low) < 1e-6
    assert rank_sum_greater(low, high) > 1 - 1e-6
    assert rank_sum_greater([v * v for v in high], [v * v for v in low]) == rank_sum_greater(high, low)
    assert rank_sum_greater([1.0] * 30, [1.0] * 30) == 1.0
    assert rank_sum_greater([], low) == 1.0


def test_the_rank_sum_rejects_what_is_alike_as_often_as_it_says() -> None:
    rng = random.Random(5)
    found = [
        rank_sum_greater([rng.expovariate(1) for _ in range(15)], [rng.expovariate(1) for _ in range(60)])
        for _ in range(2000)
    ]
    for alpha in (0.05, 0.01):
        assert sum(p <= alpha for p in found) / len(found) < 1.5 * alpha


def test_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    rng = random.Random(7)
    for _ in range(50):
        n, m = rng.randint(1, 200), rng.randint(1, 200)
        k, other = rng.randint(0, n), rng.randint(0, m)
        expected = stats.fisher_exact([[k, n - k], [other, m - other]], alternative="greater")[1]
        assert fisher_greater(k, n, other, m) == pytest.approx(expected, rel=1e-6, abs=1e-12)
        first = [rng.randint(0, 20) for _ in range(rng.randint(8, 50))]
        second = [rng.randint(0, 20) for _ in range(rng.randint(8, 50))]
        expected = stats.mannwhitneyu(first, second, alternative="greater", method="asymptotic").pvalue
        assert rank_sum_greater(first, second) == pytest.approx(expected, rel=1e-6)


def test_the_levels_of_all_looks_sum_to_alpha() -> None:
    assert sum(level(0.01, look) for look in range(1, 100_000)) == pytest.approx(0.01, rel=1e-4)


def test_quantiles_and_the_normal_tail() -> None:
    values = [float(i) for i in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile(values, 1.0)) == (50, 99, 100)
    assert quantile([3.0], 0.01) == 3.0
    assert math.isnan(quantile([], 0.5))
    assert normal_greater(1.6448536) == pytest.approx(0.05, rel=1e-5)
