"""The bodies of the admin API and of feedback."""

from __future__ import annotations

from typing import Any

import msgspec


class DeploymentBody(msgspec.Struct, forbid_unknown_fields=True):
    """A deployment as its owner writes it; `spec.DeploymentSpec` says what the fields mean.

    `why` stands in the audit log.
    """

    versions: list[str | dict[str, Any]]
    strategy: str | dict[str, Any]
    name: str | None = None
    sticky: str = "none"
    why: str = ""


class ActionBody(msgspec.Struct, forbid_unknown_fields=True):
    """What an operator does, to which version if that is to be said, and why."""

    why: str = ""
    version: str | None = None


class FeedbackBody(msgspec.Struct, forbid_unknown_fields=True):
    """How good the answer to a request was.

    Attributes:
        request_id: As the answer's header X-Request-Id says.
        score: Higher is better; a bandit wants 0 to 1.
    """

    request_id: str
    score: float


class FeedbackAnswer(msgspec.Struct):
    """Whose answer it was."""

    deployment: str
    version: str


class DeploymentVersion(msgspec.Struct):
    """A version, and what it has done since the deployment was made.

    Attributes:
        share: Of the requests, now.
        pending: Requests that run.
        requests: By outcome: succeeded, failed, hung, void (the client's own doing).
        mirrored: How many of these nobody saw.
        retried: Failures that another version made good.
    """

    id: str
    model: str
    version: str | None
    share: float
    pending: int
    requests: dict[str, int]
    mirrored: int
    retried: int
    mean_seconds: float | None
    mean_score: float | None


class DeploymentStatus(msgspec.Struct):
    """A deployment as it is now.

    Attributes:
        strategy: Its settings.
        actions: What an operator can do.
        state: What the strategy knows, which each has in its own words.
    """

    name: str
    strategy: dict[str, Any]
    sticky: str
    actions: list[str]
    state: dict[str, Any]
    versions: list[DeploymentVersion]


class DeploymentList(msgspec.Struct):
    """All deployments."""

    deployments: list[DeploymentStatus]


class AuditRecord(msgspec.Struct):
    """One decision: when (seconds since 1970), by whom, what and why."""

    id: int
    time: float
    deployment: str
    who: str
    what: str
    why: str
    details: dict[str, Any]


class AuditLog(msgspec.Struct):
    """Decisions, the newest first."""

    entries: list[AuditRecord]


class Deleted(msgspec.Struct):
    """A deployment is no more."""

    name: str
    deleted: bool = True
