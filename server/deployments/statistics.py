"""The tests by which a new version is compared with the old one. Plain Python: no table, no dependency.

All are one-sided, and made to be asked again and again while requests come in. A count (of failures, of slow
requests) is tested whenever it grows: its k-th increase at the level `level(alpha, k)`. With the k-th failure
among n requests, "the test rejects" means "at least k failures in the first n(k) requests", for the n(k) at
which the p-value crosses the level: a test with a fixed number of requests after all. The levels of all k sum
to alpha, so that a version which is as good as the other is rejected with at most that probability, however
long one looks (exactly so for the binomial test, and for Fisher's as far as the other version's counts at the
n(k) do not depend on when the failures come).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def level(alpha: float, look: int) -> float:
    """What the look with this number, from 1, may spend of alpha: these levels sum to alpha."""
    return alpha / (look * (look + 1))


def binomial_greater(successes: int, trials: int, probability: float) -> float:
    """The probability of at least so many successes in so many trials."""
    if successes <= 0:
        return 1.0
    if probability <= 0.0:
        return 0.0
    if probability >= 1.0:
        return 1.0
    log_p, log_q = math.log(probability), math.log1p(-probability)

    def term(k: int) -> float:
        return _log_choose(trials, k) + k * log_p + (trials - k) * log_q

    return _sum_tail(term, successes, trials, mode=int(trials * probability))


def fisher_greater(successes: int, trials: int, other_successes: int, other_trials: int) -> float:
    """Fisher's exact test: the probability of at least so many of all successes in the first sample.

    Given the number of successes in both samples together, and that they fall on all trials alike (the
    hypergeometric distribution). R. A. Fisher, The Design of Experiments, 1935.
    """
    if successes <= 0 or not other_trials:
        return 1.0
    total, all_trials = successes + other_successes, trials + other_trials
    everything = _log_choose(all_trials, total)

    def term(k: int) -> float:
        return _log_choose(trials, k) + _log_choose(other_trials, total - k) - everything

    return _sum_tail(term, successes, min(trials, total), mode=total * trials // all_trials)


def rank_sum_greater(first: Sequence[float], second: Sequence[float]) -> float:
    """The Mann-Whitney test: how probable ranks as high as the first sample's are if both are alike.

    The normal approximation with corrections for ties and continuity, good from about eight values in each.
    H. B. Mann and D. R. Whitney, 1947.
    """
    n, m = len(first), len(second)
    if not n or not m:
        return 1.0
    marked = sorted([(value, True) for value in first] + [(value, False) for value in second])
    rank_sum, ties, place = 0.0, 0.0, 0
    while place < len(marked):
        end = place
        while end < len(marked) and marked[end][0] == marked[place][0]:
            end += 1
        same = end - place
        rank_sum += (place + 1 + end) / 2 * sum(is_first for _, is_first in marked[place:end])
        ties += same**3 - same
        place = end
    total = n + m
    u = rank_sum - n * (n + 1) / 2
    variance = n * m / 12 * ((total + 1) - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    return normal_greater((u - n * m / 2 - 0.5) / math.sqrt(variance))


def normal_greater(z: float) -> float:
    """The probability that a standard normal variable is greater."""
    return math.erfc(z / math.sqrt(2)) / 2


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values do not exceed; NaN if there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _log_choose(n: int, k: int) -> float:
    if not 0 <= k <= n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _sum_tail(term: Callable[[int], float], first: int, last: int, mode: int) -> float:
    """The sum of exp(term(k)) from first to last; behind the mode it stops where nothing more is added."""
    total = 0.0
    for k in range(first, last + 1):
        added = math.exp(term(k))
        total += added
        if k > mode and added < 1e-12 * total:
            break
    return min(1.0, total)
