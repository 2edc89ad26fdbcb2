"""From how a request ended to what that says of the version which was asked."""

from __future__ import annotations

from ...errors import QuireError
from ..errors import ClientDisconnected
from .tally import Outcome

TIMEOUT, TOO_MANY, FAILED_DEPENDENCY = 408, 429, 424
AGAINST_THE_VERSION = (TIMEOUT, TOO_MANY, FAILED_DEPENDENCY)
"""Of the 4xx, those that a version answers for: out of time, its queue full, and TGI's word for failures."""


def of_error(error: BaseException) -> Outcome:
    """The outcome of a request that ended with an exception; what nobody expected is the version's fault."""
    if isinstance(error, QuireError):
        return of_status(error.status)
    return (
        Outcome.FAILED
        if isinstance(error, Exception) and not isinstance(error, ClientDisconnected)
        else Outcome.VOID
    )


def of_status(status: int) -> Outcome:
    """The outcome of a request that was answered with an HTTP status, and whole."""
    if status < 400:
        return Outcome.SUCCEEDED
    return Outcome.FAILED if status >= 500 or status in AGAINST_THE_VERSION else Outcome.VOID


def can_retry(error: Exception | None, status: int) -> bool:
    """Whether another version may do better: not if it is the client's time that has run out."""
    if error is not None:
        return of_error(error).is_failure and not (isinstance(error, QuireError) and error.status == TIMEOUT)
    return of_status(status).is_failure and status != TIMEOUT
