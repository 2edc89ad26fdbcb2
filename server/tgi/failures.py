"""Errors as TGI writes them."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from ...errors import EngineError, InvalidRequest, Overloaded, QuireError
from ..dialects import rename
from ..errors import ErrorDetails, error_details
from .params import RENAMED
from .protocol import TgiFailure


def failure(error: Exception) -> bytes:
    """The body of an error."""
    if isinstance(error, QuireError):
        rename(error, RENAMED)
    _, kind = _status_and_type(error)
    return msgspec.json.encode(TgiFailure(error_details(error).message, kind))


def failure_response(error: Exception) -> Response:
    """The answer to a request that failed."""
    status, _ = _status_and_type(error)
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, Overloaded) else {}
    return Response(failure(error), status, headers, media_type="application/json")


def _status_and_type(error: Exception) -> tuple[int, str]:
    """TGI has 422 for what is wrong with a request, and 424 for what goes wrong with the model."""
    if isinstance(error, InvalidRequest) or (isinstance(error, EngineError) and error.status == 400):
        return 422, "validation"
    if isinstance(error, EngineError):
        return 424, "generation"
    if isinstance(error, Overloaded):
        return error.status, "overloaded"
    if isinstance(error, QuireError):
        return error.status, "validation" if error.status < 500 else error.type
    return 500, "generation"


def write_error(status: int, details: ErrorDetails) -> bytes:
    """What the gate refuses, in TGI's form."""
    kind = "validation" if status < 500 and status != Overloaded.status else details.type
    return msgspec.json.encode(TgiFailure(details.message, kind))
