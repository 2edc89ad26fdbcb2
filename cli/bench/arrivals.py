"""When the requests of an open loop are sent: whatever the server does."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import repeat


def send_times(
    rate: float, rng: random.Random, *, burstiness: float = 1.0, ramp: float = 0.0
) -> Iterator[float]:
    """Arrival times in seconds, without end.

    The gaps are gamma-distributed; with the shape 1 they are exponential, which makes the arrivals a
    Poisson process. While the rate grows, the gaps of a process of rate 1 are carried through the inverse
    of the integrated rate (time rescaling), so that the process stays one of its kind.

    Args:
        rate: Requests per second; infinite for all at once.
        rng: The gaps are a function of its state.
        burstiness: The gamma distribution's shape: below 1 the arrivals are burstier than a Poisson
            process, above 1 more even, and evenly spaced where it is infinite.
        ramp: Seconds in which the rate grows linearly from nothing.
    """
    if math.isinf(rate):
        yield from repeat(0.0)
    in_ramp = rate * ramp / 2.0  # arrivals that are expected while the rate grows
    total = 0.0
    while True:
        if math.isinf(burstiness):
            total += 1.0
        elif burstiness == 1.0:
            total += rng.expovariate(1.0)
        else:
            total += rng.gammavariate(burstiness, 1.0 / burstiness)
        yield math.sqrt(2.0 * ramp * total / rate) if total < in_ramp else ramp / 2.0 + total / rate
