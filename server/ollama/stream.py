"""Streams of JSON lines, as Ollama sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ..context import RequestRecord, ServerContext
from ..dialects import note_error
from ..errors import ClientDisconnected, error_details
from ..generation import DeltaStream
from .protocol import OllamaFailure

MEDIA_TYPE = "application/x-ndjson"


class LineStream(StreamingResponse):
    """A response of ready-made lines over the deltas of a job, which it aborts when it ends."""

    def __init__(self, context: ServerContext, deltas: DeltaStream, lines: AsyncIterator[bytes]) -> None:
        super().__init__(lines, media_type=MEDIA_TYPE)
        self._deltas = deltas
        self._send_timeout = context.settings.send_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Streams; a client that goes, or takes no data for long, ends the job."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(self._send_timeout):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnected from None  # it may still be there, but it takes nothing

        try:
            await super().__call__(scope, receive, send_in_time)
        except ClientDisconnect:
            raise ClientDisconnected from None
        finally:
            await self._deltas.aclose()


async def open_lines(
    context: ServerContext, request: Request, deltas: DeltaStream, lines: AsyncIterator[bytes]
) -> LineStream:
    """The response, once there is something to say: what fails before is a plain HTTP error.

    When the first token takes longer than the keep-alive interval, the stream opens without it.
    """
    try:
        await deltas.wait_for_first(request.receive, context.settings.keep_alive_interval)
    except BaseException:
        await deltas.aclose()
        raise
    return LineStream(context, deltas, _with_error(lines, request.state.record))


async def _with_error(lines: AsyncIterator[bytes], record: RequestRecord) -> AsyncGenerator[bytes, None]:
    """The lines, then a line with the error if they failed."""
    try:
        async for line in lines:
            yield line
    except Exception as error:
        note_error(record, error)
        yield msgspec.json.encode(OllamaFailure(error_details(error).message)) + b"\n"
