"""uvicorn's HTTP/1.1 protocol with limits on what comes before a request is complete.

uvicorn hands a request to the application once its headers are in. Headers that never end, or
never come, are met here. The application's gate checks those that did come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from ..errors import InvalidRequest, QuireError, RequestTimeout
from .errors import HeadersTooLarge, error_body
from .settings import ServerSettings

ANSWER_EXTENSION = "quire.answer"
"""In a scope's extensions: `(status, headers, body) -> bool` sends a whole answer, or says that it cannot."""

REST_SECONDS = 5.0  # at least, for the rest of a body that was refused
LINGER_SECONDS = 1.0  # a close with unread bytes resets the connection and takes the answer with it


class LimitedHttpProtocol(HttpToolsProtocol):
    """One connection. Subclassed per server by `limited_protocol`, which sets the limits."""

    settings = ServerSettings()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._in_headers = True
        self._num_header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._in_body = False
        self._body_timer: asyncio.TimerHandle | None = None
        self._send_timer: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the clock of the first request."""
        super().connection_made(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clocks."""
        self._stop_header_timer()
        self._stop_body_timer()
        self._stop_send_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, then looks whether the headers have grown too long without an end."""
        if self._refused:
            return
        super().data_received(data)
        if self._in_headers and not self._refused:
            if self._header_timer is None:  # most headers come in one piece, and need no clock
                self._start_header_timer()
            self._num_header_bytes += len(data)
            if self._num_header_bytes > self.settings.max_header_bytes:
                self._refuse(
                    HeadersTooLarge(f"the headers may have at most {self.settings.max_header_bytes} bytes")
                )

    def on_message_begin(self) -> None:
        """A request line begins."""
        super().on_message_begin()
        self._in_headers = True
        self._num_header_bytes = 0

    def on_headers_complete(self) -> None:
        """From here on the application is responsible."""
        self._in_headers = False
        self._in_body = True
        self._stop_header_timer()
        super().on_headers_complete()
        # For answers that are complete at once: one write instead of two, and no look at single headers.
        self.scope["extensions"] = {ANSWER_EXTENSION: partial(_answer, self.cycle)}  # type: ignore[typeddict-item]

    def on_message_complete(self) -> None:
        """The body is complete; if it was refused long ago, the connection is idle from here on."""
        self._in_body = False
        super().on_message_complete()
        if self._body_timer is not None:
            self._stop_body_timer()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        """What is left of a refused body is read and thrown away, so that its client gets the answer.

        Not for ever, though: a body that trickles in would hold the connection.
        """
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            seconds = max(self.settings.body_timeout, REST_SECONDS)
            self._body_timer = self.loop.call_later(seconds, self.transport.close)

    def pause_writing(self) -> None:
        """The client takes nothing, and enough waits for it: it has so long to go on."""
        super().pause_writing()
        self._start_send_timer()

    def resume_writing(self) -> None:
        """The client goes on."""
        self._stop_send_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, for which what is written must first be sent."""
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self._start_send_timer()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn answers to a request that is no HTTP, as an error object."""
        self._refuse(InvalidRequest("this is not valid HTTP/1.1", code="invalid_http"))

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.settings.header_timeout, self._headers_too_slow)

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _start_send_timer(self) -> None:
        # A transport that is closed would wait for its client for ever.
        self._stop_send_timer()
        self._send_timer = self.loop.call_later(self.settings.send_timeout, self.transport.abort)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _stop_body_timer(self) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None

    def _headers_too_slow(self) -> None:
        self._header_timer = None
        answering = getattr(self.cycle, "response_complete", True) is False  # there may be no cycle yet
        if not self.transport.is_closing() and not answering:
            self._refuse(
                RequestTimeout(
                    f"the headers did not arrive within {self.settings.header_timeout:g} s",
                    code="headers_timeout",
                )
            )

    def _refuse(self, error: QuireError) -> None:
        self._stop_header_timer()
        body = error_body(error)
        self.transport.write(
            STATUS_LINE[error.status]
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        self._refused = True
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _answer(
    cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bool:
    """What `cycle.send` does with the two messages of a whole answer whose length is among the headers."""
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started:
        return False
    lines = [b"%b: %b\r\n" % header for header in headers]
    if not cycle.keep_alive:
        lines.append(b"connection: close\r\n")
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise RuntimeError("a header holds the end of a line")
    cycle.waiting_for_100_continue = False
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join((STATUS_LINE[status], head, b"\r\n", body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def limited_protocol(settings: ServerSettings) -> type[LimitedHttpProtocol]:
    """The protocol class with one server's limits."""
    return type("QuireHttpProtocol", (LimitedHttpProtocol,), {"settings": settings})
