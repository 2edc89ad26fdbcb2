"""Server-sent events: how a stream opens, stays alive, fails and ends."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ..errors import QuireError
from .context import RequestRecord, ServerContext
from .errors import ClientDisconnected, error_body
from .generation import DeltaStream

logger = logging.getLogger("quire.server")

DONE = b"data: [DONE]\n\n"


def event(data: bytes, name: str | None = None) -> bytes:
    """One event with a single line of data, and a name in the dialects that have them."""
    return (b"" if name is None else b"event: " + name.encode() + b"\n") + b"data: " + data + b"\n\n"


def _error_event(error: Exception) -> bytes:
    return event(error_body(error))


@dataclass(frozen=True, slots=True)
class StreamStyle:
    """How a dialect's streams fail and end.

    Attributes:
        failure: The event for an exception, the last one but for `end`.
        end: What stands behind everything.
    """

    failure: Callable[[Exception], bytes] = _error_event
    end: bytes = DONE


OPENAI_STYLE = StreamStyle()


class EventStream(EventSourceResponse):
    """A response of ready-made events over the deltas of a job, which it aborts when it ends."""

    def __init__(self, context: ServerContext, deltas: DeltaStream, events: AsyncIterator[bytes]) -> None:
        super().__init__(
            events,
            ping=context.settings.keep_alive_interval,  # type: ignore[arg-type]
            ping_message_factory=_keep_alive,
            send_timeout=context.settings.send_timeout,
        )
        self._deltas = deltas

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams; a client that goes, or takes no data for long, ends the job."""
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            raise ClientDisconnected from None  # it may still be there, but it takes nothing
        finally:
            await self._deltas.aclose()


def _keep_alive() -> ServerSentEvent:
    return ServerSentEvent(comment="keep-alive", sep="\n")


async def open_stream(
    context: ServerContext,
    request: Request,
    deltas: DeltaStream,
    events: AsyncIterator[bytes],
    style: StreamStyle = OPENAI_STYLE,
) -> EventStream:
    """The response, once there is something to say: what fails before is a plain HTTP error.

    When the first token takes longer than the keep-alive interval, the stream opens without it.
    `end` is what a dialect has instead of `with_end`.
    """
    try:
        await deltas.wait_for_first(request.receive, context.settings.keep_alive_interval)
    except BaseException:
        await deltas.aclose()
        raise
    return EventStream(context, deltas, with_end(events, request.state.record, style))


async def with_end(
    events: AsyncIterator[bytes], record: RequestRecord, style: StreamStyle = OPENAI_STYLE
) -> AsyncGenerator[bytes, None]:
    """The events, then an error event if they failed, then the end."""
    try:
        async for data in events:
            yield data
    except Exception as error:
        record.error = error
        if not isinstance(error, QuireError):
            logger.exception("request %s failed in mid-stream", record.internal_id)
        yield style.failure(error)
    if style.end:
        yield style.end
