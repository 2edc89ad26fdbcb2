"""What each API key may use in a minute and at once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from ..errors import Overloaded
from .keys import ApiKey

SECONDS = 60.0
CONCURRENCY_RETRY_SECONDS = 1


class TokenBucket:
    """Holds at most a minute's worth, begins full and fills up evenly; may be overdrawn.

    Args:
        per_minute: The size.
        clock: Seconds, monotonic.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    @property
    def level(self) -> float:
        """What is left now; negative if more was spent."""
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / SECONDS)
        self._at = now
        return self._level

    def spend(self, amount: float) -> None:
        """Takes an amount out, be it there or not."""
        self._level = self.level - amount

    def seconds_until(self, level: float) -> float:
        """The time after which `level` is left, if nothing is spent until then; 0 if it is."""
        return max(0.0, (level - self.level) * SECONDS / self.per_minute)


class KeyLimits:
    """One key's books.

    A request is let in if a whole one is left in this minute's requests and at least one token in its tokens.
    Tokens are paid as they come, prompts when they enter the engine, so that the last request let in may
    overdraw; the next one waits until that is made up for.
    """

    def __init__(self, key: ApiKey, clock: Callable[[], float]) -> None:
        self._key = key
        self._num_open = 0
        requests, tokens = key.requests_per_minute, key.tokens_per_minute
        self._requests = None if requests is None else TokenBucket(requests, clock)
        self._tokens = None if tokens is None else TokenBucket(tokens, clock)

    def enter(self) -> None:
        """Lets a request in, which must `leave`, or raises `Overloaded`."""
        key = self._key
        for bucket, unit in ((self._requests, "requests"), (self._tokens, "tokens")):
            seconds = 0.0 if bucket is None else bucket.seconds_until(1.0)
            if bucket is not None and seconds > 0:
                raise Overloaded(
                    f"this API key may use {bucket.per_minute} {unit} per minute; "
                    f"try again in {seconds:.1f} s",
                    retry_after=math.ceil(seconds),
                    code="rate_limit_exceeded",
                )
        if key.max_concurrency is not None and self._num_open >= key.max_concurrency:
            raise Overloaded(
                f"this API key may have {key.max_concurrency} requests open at once",
                retry_after=CONCURRENCY_RETRY_SECONDS,
                code="concurrency_limit_exceeded",
            )
        if self._requests is not None:
            self._requests.spend(1)
        self._num_open += 1

    def leave(self) -> None:
        """A request that was let in has been answered."""
        self._num_open -= 1

    def spend_tokens(self, num_tokens: int) -> None:
        """Tokens of a prompt or of an output."""
        if self._tokens is not None:
            self._tokens.spend(num_tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """`x-ratelimit-*`, as OpenAI names them, for the limits that there are."""
        found: list[tuple[bytes, bytes]] = []
        for bucket, unit in ((self._requests, "requests"), (self._tokens, "tokens")):
            if bucket is not None:
                values = {
                    "limit": str(bucket.per_minute),
                    "remaining": str(max(0, math.floor(bucket.level))),
                    "reset": duration(bucket.seconds_until(bucket.per_minute)),
                }
                found += [(f"x-ratelimit-{name}-{unit}".encode(), v.encode()) for name, v in values.items()]
        return found


class RateLimits:
    """The books of all keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._limits: dict[str, KeyLimits] = {}

    def of(self, key: ApiKey) -> KeyLimits:
        """One key's books."""
        limits = self._limits.get(key.name)
        if limits is None:
            limits = self._limits[key.name] = KeyLimits(key, self._clock)
        return limits


def duration(seconds: float) -> str:
    """A time as OpenAI writes it, rounded up to milliseconds: "0s", "1.5s", "1m12s"."""
    milliseconds = math.ceil(round(seconds * 1000, 3))
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{milliseconds / 1000:g}s"
