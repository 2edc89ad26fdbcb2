"""From an HTTP request to a typed message, or to a 4xx that says what is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import msgspec
from starlette.requests import Request

from ..errors import InvalidRequest, Overloaded, PermissionDenied, RequestTimeout, RequestTooLarge
from . import strict_json
from .context import ServerContext
from .errors import ClientDisconnected, UnsupportedMediaType
from .settings import ServerSettings

T = TypeVar("T", bound=msgspec.Struct)
R = TypeVar("R")

# Parameters of a dialect that quire knows and does not honour, with the values that ask for nothing.
Unsupported = Mapping[str, tuple[object, ...]]

MAX_PLAIN_BYTES = 1 << 16

_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_NUMBER = b"0" * (strict_json.MAX_INTEGER_DIGITS + 1)
_decode = msgspec.json.Decoder().decode
_WHERE = re.compile(r" - at `(?:key in )?\$\.?(?P<path>[^`]*)`$")
_UNKNOWN = re.compile(r"^Object contains unknown field `(?P<name>.*)`$", re.DOTALL)
_ENUM = re.compile(r"^Invalid enum value (?P<value>.*)$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")


async def read_message(
    context: ServerContext,
    request: Request,
    message_type: type[T],
    *,
    unsupported: Unsupported,
    whatever_type: bool = False,
) -> T:
    """Reads and checks the body of a request; long ones are parsed in a thread.

    Args:
        context: The server.
        request: The request.
        message_type: What the body must be.
        unsupported: Parameters that are refused, see `Unsupported`.
        whatever_type: Whether JSON under another media type, or none, will do: see `read_any`.

    Raises `UnsupportedMediaType` (415), `RequestTooLarge` (413), `RequestTimeout` (408),
    `Overloaded` (429), `InvalidRequest` (400), or `ClientDisconnected`.
    """
    read = read_any if whatever_type and media_type(request) != "application/json" else _read
    return await read(
        context, request, lambda body: parse_message(body, message_type, context.settings, unsupported)
    )


async def read_object(context: ServerContext, request: Request) -> dict[str, object]:
    """Reads the body of a request whose keys say which message it is, for `convert`; raises the same."""
    return await _read(context, request, lambda body: parse_object(body, context.settings))


async def _read(context: ServerContext, request: Request, parse: Callable[[bytes], R]) -> R:
    _check_media_type(request)
    return await _read_any(context, request, parse)


async def read_any(context: ServerContext, request: Request, parse: Callable[[bytes], R]) -> R:
    """What `parse` makes of a body of whatever media type; long ones are parsed in a thread.

    For routes that change nothing, and whose clients send more than JSON, or JSON under other names. Raises
    as `read_message` does, and `PermissionDenied` (403) if a page of another site sent what is not JSON.
    """
    check_any(dict(request.headers.raw))
    return await _read_any(context, request, parse)


def check_any(headers: Mapping[bytes, bytes]) -> None:
    """Raises `UnsupportedMediaType` (415) or `PermissionDenied` (403) as `read_any` does."""
    if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != b"application/json":
        check_origin(headers)
    encoding = headers.get(b"content-encoding", b"identity")
    if encoding.lower() != b"identity":
        raise _unsupported_encoding(encoding.decode("latin-1"))


async def _read_any(context: ServerContext, request: Request, parse: Callable[[bytes], R]) -> R:
    body = bytearray()
    try:
        await _read_into(body, context, request)
        return await context.offload(len(body), lambda: parse(bytes(body)))
    finally:
        context.num_body_bytes -= len(body)


async def _read_into(body: bytearray, context: ServerContext, request: Request) -> None:
    """Takes in the raw body within the server's limits, whether or not the client states its length."""
    settings = context.settings
    limit = settings.max_body_bytes
    too_large = RequestTooLarge(f"the body may have at most {limit} bytes", code="body_too_large")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large
    try:
        async with asyncio.timeout(settings.body_timeout):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                piece: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) + len(piece) > limit:
                    raise too_large
                body += piece
                context.num_body_bytes += len(piece)
                if context.num_body_bytes > settings.max_buffered_bytes:
                    raise Overloaded("the server holds too many unfinished requests in memory")
    except TimeoutError:
        raise RequestTimeout(
            f"the body did not arrive within {settings.body_timeout:g} s", code="body_timeout"
        ) from None


def media_type(request: Request) -> str:
    """The body's media type in lower case, without parameters; empty if the client names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_media_type(request: Request) -> None:
    # Browsers send a form or plain text to any address without asking; JSON they ask for first.
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("the body must be JSON, sent with Content-Type: application/json")
    for parameter in request.headers.get("content-type", "").lower().split(";")[1:]:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise UnsupportedMediaType("the body must be encoded in UTF-8")
    _check_encoding(request)


def check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Raises `PermissionDenied` for what a page of another site makes a browser send unasked."""
    site = headers.get(b"sec-fetch-site", b"none")
    origin = headers.get(b"origin")
    if site not in (b"none", b"same-origin") or (
        origin is not None and origin.partition(b"://")[2] != headers.get(b"host")
    ):
        raise PermissionDenied("pages of other sites may not send this", code="cross_site")


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise _unsupported_encoding(encoding)


def _unsupported_encoding(encoding: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is"
    )


def parse_message(
    body: bytes, message_type: type[T], settings: ServerSettings, unsupported: Unsupported
) -> T:
    """The typed message in a JSON text, or `InvalidRequest` naming the field at fault."""
    return convert(parse_object(body, settings), message_type, unsupported)


def parse_json(body: bytes, settings: ServerSettings) -> object:
    """The value of a JSON text within the server's limits, or `InvalidRequest`."""
    if _is_plain(body, settings):
        # As strict as the other where nothing is doubled, escaped or long, and several times as fast.
        with contextlib.suppress(msgspec.DecodeError):
            return _decode(body)
    return strict_json.parse(body, max_depth=settings.max_json_depth, max_values=settings.max_json_values)


def _is_plain(body: bytes, settings: ServerSettings) -> bool:
    """Whether a text is too short and too simple for what `strict_json` alone finds, such as doubled keys."""
    return (
        len(body) <= min(MAX_PLAIN_BYTES, settings.max_json_values)
        and body.count(b":") <= 1
        and body.count(b"[") + body.count(b"{") <= settings.max_json_depth
        and b"\\" not in body
        and body.isascii()
        and _LONG_NUMBER not in body.translate(_DIGITS_AS_ZEROS)
    )


def parse_object(body: bytes, settings: ServerSettings) -> dict[str, object]:
    """The object in a JSON text within the server's limits, or `InvalidRequest`."""
    value = parse_json(body, settings)
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object")
    return cast("dict[str, object]", value)


def convert(value: dict[str, object], message_type: type[T], unsupported: Unsupported) -> T:
    """The typed message in an object of JSON, which loses its unsupported keys, or `InvalidRequest`."""
    for name, neutral in unsupported.items():
        if name in value:
            given = value.pop(name)
            if given is not None and not any(type(given) is type(one) and given == one for one in neutral):
                raise InvalidRequest(
                    f"{name} is not supported yet; leave it out", param=name, code="unsupported_parameter"
                )
    try:
        return msgspec.convert(value, message_type)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from None


def invalid(text: str) -> InvalidRequest:
    """`InvalidRequest` from the text of a msgspec error, which ends with the path of the field."""
    where = _WHERE.search(text)
    path = where["path"] if where else ""
    reason = text[: where.start()] if where else text

    def inside(name: str) -> str:
        return f"{path}.{name}" if path else name

    if unknown := _UNKNOWN.match(reason):
        param = inside(unknown["name"])[:120]
        return InvalidRequest(f"unknown parameter: {param!r}", param=param, code="unknown_parameter")
    if missing := _MISSING.match(reason):
        param = inside(missing["name"])
        return InvalidRequest(f"{param} is required", param=param, code="missing_parameter")
    if enum := _ENUM.match(reason):
        return InvalidRequest(f"{path}: {enum['value'][:120]} is not supported", param=path)
    if reason.startswith("Expected `null`"):
        return InvalidRequest(f"{path} is not supported yet; leave it out", param=path)
    return InvalidRequest(f"{path or 'the body'}: {reason[:1].lower()}{reason[1:]}", param=path or None)
