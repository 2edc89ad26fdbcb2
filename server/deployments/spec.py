"""What an owner writes about a deployment, in quire.toml or to the admin API."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from ...errors import InvalidRequest

MOST_VERSIONS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:/+-]{0,199}")
_HEADER = re.compile(r"header:([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64})")


def _check(condition: bool, text: str, param: str) -> None:
    if not condition:
        raise InvalidRequest(text, param=param)


def _check_share(value: float, param: str, *, most: float = 1.0) -> None:
    _check(0 < value <= most, f"{param} must be above 0 and at most {most:g}, not {value!r}", param)


class BlueGreen(msgspec.Struct, tag="blue-green", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """All requests go to the active version, at first the first one; a switch is instant, and so is back."""

    def check(self, num_versions: int) -> None:
        """Raises `InvalidRequest` naming the value that is wrong."""
        _check(num_versions >= 2, f"blue-green needs two versions or more, not {num_versions}", "versions")


class Canary(msgspec.Struct, tag="canary", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """The second version takes over from the first, step by step; it falls back to nothing if it is worse.

    Attributes:
        steps: Percent of the requests that the candidate gets.
        step_requests: Requests of the candidate that a step lasts at least; those that say nothing of it
            (4xx, disconnects) are not counted.
        step_seconds: How long it lasts at least.
        automatic: Whether a step that has passed is followed by the next. If not, `promote` goes on.
        alpha: The probability with which a candidate that is as good as the first version is rolled back
            for its errors, in a window of requests; the same for latency and for scores.
        max_error_rate: What the candidate's errors are compared with while the stable version has answered
            fewer than 20 requests.
        latency_ratio: How much slower than the stable version it may be, as a whole and at p99.
        latency_floor: Differences of fewer seconds are no matter.
        score_tolerance: How much lower its scores may be; None for scores that do not count.
        hang_seconds: A request in which nothing has come for so long has failed.
        window_requests: The tests look at so many requests of the candidate, then begin anew.
    """

    steps: tuple[float, ...] = (1, 5, 25, 50, 100)
    step_requests: int = 100
    step_seconds: float = 60.0
    automatic: bool = True
    alpha: float = 0.01
    max_error_rate: float = 0.05
    latency_ratio: float = 1.5
    latency_floor: float = 0.005
    score_tolerance: float | None = None
    hang_seconds: float = 5.0
    window_requests: int = 500

    def check(self, num_versions: int) -> None:
        """Raises `InvalidRequest` naming the value that is wrong."""
        _check(
            num_versions == 2,
            f"a canary has two versions, stable and candidate, not {num_versions}",
            "versions",
        )
        rising = all(a < b for a, b in zip(self.steps, self.steps[1:], strict=False))
        _check(
            0 < len(self.steps) <= 100 and rising and self.steps[0] > 0 and self.steps[-1] == 100,
            f"steps must rise from above 0 and end with 100, not {list(self.steps[:20])}",
            "steps",
        )
        _check(
            self.step_requests >= 1,
            f"step_requests must be at least 1, not {self.step_requests}",
            "step_requests",
        )
        _check(
            0 <= self.step_seconds < math.inf,
            f"step_seconds must be at least 0, not {self.step_seconds}",
            "step_seconds",
        )
        _check_share(self.alpha, "alpha", most=0.5)
        _check_share(self.max_error_rate, "max_error_rate")
        _check(
            1 <= self.latency_ratio < math.inf,
            f"latency_ratio must be at least 1, not {self.latency_ratio}",
            "latency_ratio",
        )
        _check(
            0 <= self.latency_floor < math.inf,
            f"latency_floor must be at least 0, not {self.latency_floor}",
            "latency_floor",
        )
        if self.score_tolerance is not None:
            _check(
                0 <= self.score_tolerance < math.inf,
                f"score_tolerance must be at least 0, not {self.score_tolerance}",
                "score_tolerance",
            )
        _check_hang(self.hang_seconds)
        _check(
            20 <= self.window_requests <= 100_000,
            f"window_requests must be from 20 to 100000, not {self.window_requests}",
            "window_requests",
        )


class Shadow(msgspec.Struct, tag="shadow", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """The first version answers; the second is asked the same afterwards, and nobody waits for it.

    Attributes:
        sample: The share of the requests that are mirrored.
        max_pending: Mirrored requests that wait or run at once; what exceeds it is dropped, and counted.
        timeout: Seconds after which a mirrored request is given up.
        tolerance: How far numbers may be apart, relative to the first version's, and still agree.
    """

    sample: float = 1.0
    max_pending: int = 8
    timeout: float = 60.0
    tolerance: float = 1e-3

    def check(self, num_versions: int) -> None:
        """Raises `InvalidRequest` naming the value that is wrong."""
        _check(num_versions == 2, f"a shadow deployment has two versions, not {num_versions}", "versions")
        _check_share(self.sample, "sample")
        _check(
            1 <= self.max_pending <= 1024,
            f"max_pending must be from 1 to 1024, not {self.max_pending}",
            "max_pending",
        )
        _check(0 < self.timeout < math.inf, f"timeout must be above 0, not {self.timeout}", "timeout")
        _check(
            0 <= self.tolerance < math.inf, f"tolerance must be at least 0, not {self.tolerance}", "tolerance"
        )


class Bandit(msgspec.Struct, tag="bandit", tag_field="type", forbid_unknown_fields=True, frozen=True):
    """Requests go to the version that seems to be the best, and now and then to another, to learn.

    Attributes:
        reward: "feedback" for what clients send, 0 to 1; "latency" for 1 if the request succeeded within
            `target_seconds`, else 0.
        target_seconds: See there.
        half_life: Rewards after which an older one counts half; None if versions do not change with time.
        hang_seconds: A request in which nothing has come for so long has failed.
    """

    reward: str = "feedback"
    target_seconds: float | None = None
    half_life: float | None = None
    hang_seconds: float = 60.0

    def check(self, num_versions: int) -> None:
        """Raises `InvalidRequest` naming the value that is wrong."""
        _check(num_versions >= 2, f"a bandit needs two versions or more, not {num_versions}", "versions")
        _check(
            self.reward in ("feedback", "latency"),
            f"reward must be 'feedback' or 'latency', not {self.reward!r}",
            "reward",
        )
        if (self.reward == "latency") != (self.target_seconds is not None):
            raise InvalidRequest(
                "target_seconds goes with reward 'latency', and only there", param="target_seconds"
            )
        if self.target_seconds is not None:
            _check(
                0 < self.target_seconds < math.inf,
                f"target_seconds must be above 0, not {self.target_seconds}",
                "target_seconds",
            )
        if self.half_life is not None:
            _check(
                1 <= self.half_life < math.inf,
                f"half_life must be at least 1, not {self.half_life}",
                "half_life",
            )
        _check_hang(self.hang_seconds)


def _check_hang(seconds: float) -> None:
    _check(0 < seconds < math.inf, f"hang_seconds must be above 0, not {seconds}", "hang_seconds")


Settings = BlueGreen | Canary | Shadow | Bandit


class Version(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """One version.

    Attributes:
        model: The model's name in this server: a language model, or a classic one.
        version: The version of a classic model; None for the highest that is ready.
        id: What it is called here; MODEL or MODEL@VERSION by default.
    """

    model: str
    version: str | None = None
    id: str = ""


class DeploymentSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A deployment.

    Attributes:
        name: The name that clients use as a model's.
        versions: Those that it chooses among; the first one is the one that is known to work.
        strategy: How it chooses.
        sticky: Who keeps the same version for the same share: "none", "key" (the API key), "user" (the
            `user` of OpenAI's requests) or "header:NAME".
    """

    name: str
    versions: tuple[Version, ...]
    strategy: Settings
    sticky: str = "none"

    @property
    def version_ids(self) -> tuple[str, ...]:
        """The ids in order."""
        return tuple(version.id for version in self.versions)

    @property
    def sticky_header(self) -> str | None:
        """The name of the header, lower case, if that is what it goes by."""
        match = _HEADER.fullmatch(self.sticky)
        return match[1].lower() if match else None


def read_spec(value: Mapping[str, Any]) -> DeploymentSpec:
    """A checked deployment from a table of quire.toml or a JSON object.

    `strategy` may be a type alone ("canary"), versions may be "MODEL" or "MODEL@VERSION".

    Raises:
        InvalidRequest: Something is wrong; the message names it.
    """
    given = dict(value)
    if isinstance(strategy := given.get("strategy"), str):
        given["strategy"] = {"type": strategy}
    if isinstance(versions := given.get("versions"), list | tuple):
        given["versions"] = [_read_version(version) for version in versions]
    try:
        spec = msgspec.convert(given, DeploymentSpec)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            f"the deployment {str(given.get('name'))[:200]!r}: {error}", param="deployment"
        ) from None
    spec = msgspec.structs.replace(spec, versions=tuple(map(_with_id, spec.versions)))
    _check(
        _NAME.fullmatch(spec.name) is not None,
        f"name must consist of letters, digits, '.', '_' and '-', not {spec.name[:200]!r}",
        "name",
    )
    _check(
        len(spec.versions) <= MOST_VERSIONS,
        f"at most {MOST_VERSIONS} versions, not {len(spec.versions)}",
        "versions",
    )
    for version in spec.versions:
        _check(
            _ID.fullmatch(version.id) is not None, f"{version.id[:200]!r} is not a version's id", "versions"
        )
    ids = spec.version_ids
    _check(len(set(ids)) == len(ids), f"two versions have the same id: {list(ids)}", "versions")
    _check(
        spec.sticky in ("none", "key", "user") or spec.sticky_header is not None,
        f"sticky must be 'none', 'key', 'user' or 'header:NAME', not {spec.sticky[:100]!r}",
        "sticky",
    )
    spec.strategy.check(len(spec.versions))
    return spec


def _read_version(value: object) -> object:
    if not isinstance(value, str):
        return value
    model, at, version = value.rpartition("@")
    return {"model": model, "version": version} if at else {"model": value}


def _with_id(version: Version) -> Version:
    _check(bool(version.model), "a version's model must not be empty", "versions")
    default = version.model if version.version is None else f"{version.model}@{version.version}"
    return msgspec.structs.replace(version, id=version.id or default)
