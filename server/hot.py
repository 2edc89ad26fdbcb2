"""The short way for routes that are asked many thousand times a second: those of the data plane.

FastAPI's routing costs several times what a small model does. A hot route is found by its path alone, before
the router, and answered in two messages. Everything that the gate checks is checked here by the same code:
header limits, request ids, keys and their limits, the drain; the log and the metrics know of it, too.

A dialect registers one when its routes are made:

    async def predict(request: HotRequest) -> HotAnswer:
        return HotAnswer(200, JSON, b"{}")

    context.hot.add(HotRoute("/v1/models/", ":predict", "/v1/models/{model}:predict", predict, write_error))

and, for the OpenAPI document, describes a route of the same path and method on its router, which is never
asked: `endpoint_of` makes its function.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from ..errors import Overloaded, RequestTimeout, RequestTooLarge
from .errors import ClientDisconnected, ErrorWriter, write_error

if TYPE_CHECKING:
    from .context import RequestRecord, ServerContext

Headers = list[tuple[bytes, bytes]]

REFUSAL_SECONDS = 0.04

JSON: Headers = [(b"content-type", b"application/json")]


class HotAnswer(NamedTuple):
    """An answer, complete; its length and the request's id are added to the headers."""

    status: int
    headers: Headers
    body: bytes


@dataclass(slots=True)
class HotRequest:
    """A request that has passed the gate.

    Attributes:
        context: The server.
        path: Decoded.
        headers: By name in lower case; of a name that comes twice, the last.
        record: Becomes its line in the log.
        body: All of it.
    """

    context: ServerContext
    path: str
    headers: dict[bytes, bytes]
    record: RequestRecord
    body: bytes = b""


HotHandler = Callable[[HotRequest], Awaitable[HotAnswer]]


@dataclass(frozen=True, slots=True)
class HotRoute:
    """POST requests to paths of one beginning and end.

    Attributes:
        prefix: The beginning of the decoded path.
        suffix: Its end; what is between them is the handler's to understand.
        label: What the route is called in the metrics.
        handle: Answers; a `QuireError` that it raises is written by `write_error`.
        write_error: The dialect's form of errors.
        admit: Looks at a request before its body is read, which is empty then: what it raises is the answer.
            It is where an overloaded server says no cheaply.
    """

    prefix: str
    suffix: str
    label: str
    handle: HotHandler
    write_error: ErrorWriter = write_error
    admit: Callable[[HotRequest], None] | None = None


class HotRoutes:
    """The hot routes of a server; those added first are found first."""

    def __init__(self) -> None:
        self._routes: list[HotRoute] = []

    def add(self, route: HotRoute) -> None:
        """One more."""
        self._routes.append(route)

    async def pace_refusal(self) -> None:
        """Waits a little before an overloaded server says no.

        A client that asks again at once would otherwise take the time that the requests in the queue need.
        """
        await asyncio.sleep(REFUSAL_SECONDS)

    def find(self, scope: Scope) -> HotRoute | None:
        """The route of a request, if it is hot."""
        if scope["method"] != "POST":
            return None
        path: str = scope["path"]
        for route in self._routes:
            if path.startswith(route.prefix) and path.endswith(route.suffix):
                return route
        return None


def endpoint_of(context: ServerContext, route: HotRoute) -> Callable[[Request], Awaitable[Response]]:
    """The function of the router's own route: the same answer, for whoever asks past the gate."""

    async def endpoint(request: Request) -> Response:
        hot = HotRequest(context, request.url.path, dict(request.headers.raw), request.state.record)
        if route.admit is not None:
            route.admit(hot)
        hot.body = await read_whole(context, hot.headers, request.receive)
        status, headers, body = await route.handle(hot)
        return Response(body, status, {name.decode(): value.decode() for name, value in headers})

    return endpoint


async def read_whole(context: ServerContext, headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The body, within the server's limits.

    Raises `RequestTooLarge` (413), `RequestTimeout` (408), `Overloaded` (429) or `ClientDisconnected`.
    """
    settings = context.settings
    limit = settings.max_body_bytes
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length[:20]) > limit:
        raise _too_large(limit)
    # Most bodies are there with their headers: no clock is needed then, which costs more than all the rest.
    first = receive()
    assert isinstance(first, Coroutine)
    try:
        waiting = first.send(None)
    except StopIteration as done:
        message = done.value
    else:
        try:
            async with asyncio.timeout(settings.body_timeout):
                message = await _go_on(first, waiting)
        except TimeoutError:
            raise _too_slow(settings.body_timeout) from None
    if message["type"] == "http.disconnect":
        raise ClientDisconnected
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        return await _read_rest(context, bytearray(body), receive)
    if len(body) > limit:
        raise _too_large(limit)
    return body


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, Any], waiting: Any) -> Generator[Any, Any, Any]:
    """Awaits a coroutine that has been started, and has yielded what it waits for."""
    while True:
        try:
            sent = yield waiting
        except BaseException as error:
            step = (coroutine.throw, error)
        else:
            step = (coroutine.send, sent)
        try:
            waiting = step[0](step[1])
        except StopIteration as done:
            return done.value


async def _read_rest(context: ServerContext, body: bytearray, receive: Receive) -> bytes:
    settings = context.settings
    counted = 0
    try:
        async with asyncio.timeout(settings.body_timeout):
            more = True
            while more:
                if len(body) > settings.max_body_bytes:
                    raise _too_large(settings.max_body_bytes)
                context.num_body_bytes += len(body) - counted
                counted = len(body)
                if context.num_body_bytes > settings.max_buffered_bytes:
                    raise Overloaded("the server holds too many unfinished requests in memory")
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError:
        raise _too_slow(settings.body_timeout) from None
    finally:
        context.num_body_bytes -= counted
    if len(body) > settings.max_body_bytes:
        raise _too_large(settings.max_body_bytes)
    return bytes(body)


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"the body may have at most {limit} bytes", code="body_too_large")


def _too_slow(seconds: float) -> RequestTimeout:
    return RequestTimeout(f"the body did not arrive within {seconds:g} s", code="body_timeout")
