"""Errors as the llama.cpp server writes them."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from ...errors import ContextLengthExceeded, InvalidRequest, Overloaded, QuireError
from ..dialects import rename
from ..errors import ErrorDetails, error_details
from .params import RENAMED
from .protocol import LlamaErrorDetails, LlamaFailure


class NotSupported(InvalidRequest):
    """A route that quire does not have yet."""

    status = 501
    default_code = "unsupported_route"


def failure(error: Exception) -> bytes:
    """The body of an error."""
    if isinstance(error, QuireError):
        rename(error, RENAMED)
    status, kind = _status_and_type(error)
    return msgspec.json.encode(LlamaFailure(LlamaErrorDetails(status, error_details(error).message, kind)))


def failure_response(error: Exception) -> Response:
    """The answer to a request that failed."""
    status, _ = _status_and_type(error)
    headers = {"retry-after": str(error.retry_after)} if isinstance(error, Overloaded) else {}
    return Response(failure(error), status, headers, media_type="application/json")


def _status_and_type(error: Exception) -> tuple[int, str]:
    if not isinstance(error, QuireError):
        return 500, "server_error"
    if isinstance(error, NotSupported):
        return error.status, "not_supported_error"
    if isinstance(error, ContextLengthExceeded):
        return error.status, "exceed_context_size_error"
    if isinstance(error, Overloaded) or error.status == 503:
        return 503, "unavailable_error"
    return error.status, _kind(error.status, error.type)


def write_error(status: int, details: ErrorDetails) -> bytes:
    """What the gate refuses, in llama.cpp's form."""
    kind = _kind(status, details.type)
    return msgspec.json.encode(LlamaFailure(LlamaErrorDetails(status, details.message, kind)))


def _kind(status: int, type: str) -> str:
    if status >= 500:
        return "unavailable_error" if status == 503 else "server_error"
    return type if type.endswith("_error") else "invalid_request_error"
