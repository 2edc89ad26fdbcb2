"""Where a name becomes a version, for requests to language models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ...errors import NotFound, QuireError, Unavailable
from .answer import SpokenAnswer
from .deployment import Attempt, Deployment
from .tally import Outcome

if TYPE_CHECKING:
    from ..context import RequestRecord
    from .manager import Deployments

T = TypeVar("T")


class VersionUnavailable(Unavailable):
    """The model of a deployment's version is not there."""

    default_code = "version_unavailable"

    def __init__(self, attempt: Attempt, error: QuireError) -> None:
        version, name = attempt.version.id, attempt.deployment.name
        super().__init__(f"version {version} of the deployment {name} cannot be asked: {error.message}")


async def find_version(
    deployments: Deployments,
    deployment: Deployment,
    record: RequestRecord,
    find: Callable[[str], Awaitable[T]],
) -> T:
    """The model that answers a request, which is known by its record and noted there.

    Args:
        deployments: All of them.
        deployment: The one that the request names.
        record: The request's. If an attempt stands there, its version was chosen before.
        find: Finds a model by its name.

    Raises:
        VersionUnavailable: The version's model is not there. That counts against the version.
    """
    attempt = record.attempt
    if attempt is None or attempt.deployment is not deployment or attempt.outcome is not None:
        attempt = record.attempt = deployments.begin(deployment)
    if attempt.mirror_to is not None:
        attempt.answer = SpokenAnswer()
    record.version = attempt.version.id
    try:
        return await find(attempt.version.model)
    except (NotFound, Unavailable) as error:
        attempt.end(Outcome.FAILED)
        raise VersionUnavailable(attempt, error) from error
