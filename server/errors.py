"""From exceptions to error objects. Nothing else decides what a client learns of a failure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..errors import Overloaded, QuireError

MAX_MESSAGE_CHARACTERS = 1000  # messages quote what the client sent


class UnsupportedMediaType(QuireError):
    """The body is not plain JSON."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class HeadersTooLarge(QuireError):
    """The request's headers are larger, or more, than the server's limit."""

    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class Unauthenticated(QuireError):
    """The request carries no API key, or a wrong one."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class RouteNotFound(QuireError):
    """There is no such path."""

    status = 404
    type = "not_found_error"


class MethodNotAllowed(QuireError):
    """The path exists, with another method."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"


class Conflict(QuireError):
    """What is to be made is there already."""

    status = 409
    type = "invalid_request_error"
    default_code = "conflict"


class OutOfMemory(QuireError):
    """A model does not fit the memory beside those that are loaded."""

    status = 507
    type = "invalid_request_error"
    default_code = "model_too_large"


class ClientDisconnected(Exception):
    """The client has gone; there is nobody to answer."""


class ErrorDetails(msgspec.Struct):
    """`type` is a stable class of errors, `code` a stable word for programs, or null."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorObject(msgspec.Struct):
    """The body of every answer that is not a success, and of an error event in a stream."""

    error: ErrorDetails


ErrorWriter = Callable[[int, ErrorDetails], bytes]
"""Puts an error, with its HTTP status, into the form of a dialect."""


def error_details(error: Exception) -> ErrorDetails:
    """What a client learns of an exception; one that is not quire's own says nothing of itself."""
    if not isinstance(error, QuireError):
        error = QuireError("the server failed on this request; its log says more", code="internal_error")
    message = error.message
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = message[:MAX_MESSAGE_CHARACTERS] + "…"
    return ErrorDetails(message, error.type, error.param, error.code)


def error_status(error: Exception) -> int:
    """The HTTP status of an exception."""
    return error.status if isinstance(error, QuireError) else 500


def error_body(error: Exception) -> bytes:
    """The error object as JSON."""
    return write_error(error_status(error), error_details(error))


def write_error(status: int, details: ErrorDetails) -> bytes:
    """OpenAI's form."""
    return msgspec.json.encode(ErrorObject(details))


def error_answer(
    error: Exception, write: ErrorWriter = write_error
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body of the answer for an exception."""
    headers = [(b"content-type", b"application/json")]
    if isinstance(error, Overloaded):
        headers.append((b"retry-after", b"%d" % error.retry_after))
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    status = error_status(error)
    return status, headers, write(status, error_details(error))


def error_response(error: Exception, write: ErrorWriter = write_error) -> Response:
    """The HTTP answer for an exception."""
    status, headers, body = error_answer(error, write)
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


async def answer_quire_error(request: Request, error: Exception) -> Response:
    """Exception handler for `QuireError`."""
    request.state.record.error = error
    return error_response(error, request.state.record.write_error)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Exception handler for what the router raises: unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    shown = f"{request.method} {request.scope['path']!r}"
    write = request.state.record.write_error
    if error.status_code == 405:
        response = error_response(MethodNotAllowed(f"{shown}: this path takes another method"), write)
        response.headers.update(error.headers or {})
        return response
    return error_response(RouteNotFound(f"{shown}: there is no such path", code="route_not_found"), write)
