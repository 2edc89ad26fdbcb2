"""Between the gate and the routes: where a version fails before it has said a word, another one answers.

A request to a language model is routed when its handler has read which model it is for. So a handler's
failure is held back here, before anything of it is sent, and the request, which was kept, goes through the
handlers again, now to the version on which the deployment falls back. It is repeated once at most, and only
for failures of the version: not for what is wrong with the request, nor when its time is over, nor once a
stream has begun, whose failure in mid-stream counts all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ClientDisconnected
from .mirror import Mirrors
from .outcomes import can_retry, of_error, of_status
from .tally import Outcome

if TYPE_CHECKING:
    from ..context import RequestRecord, ServerContext
    from .deployment import Attempt


class Tape:
    """The ASGI `receive` of a request, whose body can be received again.

    Args:
        receive: The server's.
        context: Counts the bytes that are kept; the body is not kept when they would be too many.
    """

    def __init__(self, receive: Receive, context: ServerContext) -> None:
        self._receive = receive
        self._context = context
        self._messages: list[Message] = []
        self._place = 0
        self._num_bytes = 0
        self.is_whole = True

    async def receive(self) -> Message:
        """The next message."""
        if self._place < len(self._messages):
            self._place += 1
            return self._messages[self._place - 1]
        message = await self._receive()
        if message["type"] == "http.request" and self.is_whole:
            self._keep(message)
        return message

    def rewind(self) -> None:
        """From the beginning again."""
        self._place = 0

    def body(self) -> bytes:
        """All of the body that has come."""
        return b"".join(message.get("body", b"") for message in self._messages)

    def forget(self) -> None:
        """Lets go of the body."""
        self._context.num_body_bytes -= self._num_bytes
        self._num_bytes = 0
        self._messages.clear()
        self.is_whole = False

    def _keep(self, message: Message) -> None:
        size = len(message.get("body", b""))
        # Whoever reads it now counts it, too, and must not be refused for what is kept here.
        if self._context.num_body_bytes + 2 * size > self._context.settings.max_buffered_bytes:
            self.forget()
            return
        self._context.num_body_bytes += size
        self._num_bytes += size
        self._messages.append(message)
        self._place += 1


class HeldReply:
    """The ASGI `send` of one attempt, which swallows an answer that `hold` does not want to be seen.

    `goes_out` is called when it is to be seen.

    Attributes:
        status: The answer's.
        is_held: Whether it was swallowed.
        is_complete: Whether its last byte was sent.
    """

    def __init__(self, send: Send, hold: Callable[[int], bool], goes_out: Callable[[], None]) -> None:
        self._send = send
        self._hold = hold
        self._goes_out = goes_out
        self.status = 0
        self.is_held = False
        self.is_complete = False

    async def __call__(self, message: Message) -> None:
        """Takes a message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_held = self._hold(self.status)
            if not self.is_held:
                self._goes_out()
        if not self.is_held:
            await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True


class DeployedApp:
    """ASGI middleware around the routes, inside the gate."""

    def __init__(self, app: ASGIApp, context: ServerContext) -> None:
        self.app = app
        self._context = context
        self._mirrors = Mirrors(app, context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request; one to a deployment, if need be, in two attempts."""
        if scope["type"] != "http" or not len(self._context.deployments):
            await self.app(scope, receive, send)
            return
        record: RequestRecord = scope["state"]["record"]
        tape = Tape(receive, self._context)
        try:
            failed = await self._attempt(scope, tape, send, record)
            if failed is not None:
                tape.rewind()
                _begin_again(record, failed)
                await self._attempt(scope, tape, send, record)
            attempt = record.attempt
            if attempt is not None and attempt.outcome is Outcome.SUCCEEDED:
                self._context.deployments.remember(record, attempt)
                if attempt.mirror_to is not None and tape.is_whole:
                    self._mirrors.start(scope, tape.body(), record, attempt)
        finally:
            tape.forget()

    async def _attempt(self, scope: Scope, tape: Tape, send: Send, record: RequestRecord) -> Attempt | None:
        """Has the routes answer. Returns the attempt if it has failed and another version shall answer."""

        def hold(status: int) -> bool:
            attempt = record.attempt
            return (
                attempt is not None
                and tape.is_whole
                and attempt.fallback is not None
                and can_retry(record.error, status)
            )

        def forget() -> None:
            # What follows can be repeated no more; only a shadow may still want the body.
            if record.attempt is None or record.attempt.mirror_to is None:
                tape.forget()

        reply = HeldReply(send, hold, forget)
        inner = dict(scope)
        try:
            await self.app(inner, tape.receive, reply)
        except BaseException as error:
            if record.attempt is not None:
                record.attempt.end(of_error(error))
            if isinstance(error, Exception) and not isinstance(error, ClientDisconnected):
                record.error = error
            if not reply.is_held and not (not reply.status and isinstance(error, Exception) and hold(500)):
                raise
            return record.attempt
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]  # for the metrics
        if record.attempt is not None:
            record.attempt.end(_outcome(record, reply))
        return record.attempt if reply.is_held else None


def _outcome(record: RequestRecord, reply: HeldReply) -> Outcome:
    """What an attempt that ended without an exception has shown."""
    if record.error is not None:
        return of_error(record.error)
    found = of_status(reply.status)
    if found is not Outcome.SUCCEEDED:
        return found
    # An answer that was cut short: its client has gone. One without a word of the model's: it was not asked.
    assert record.attempt is not None
    return found if reply.is_complete and record.attempt.has_lived else Outcome.VOID


def _begin_again(record: RequestRecord, failed: Attempt) -> None:
    """Makes a record as it was before the first attempt, with another version to ask.

    What the first attempt spent of the key's tokens is given back.
    """
    fallback = failed.fallback
    assert fallback is not None
    record.attempt = failed.deployment.fall_back(failed, fallback)
    if record.limits is not None:
        record.limits.spend_tokens(-record.num_prompt_tokens - record.num_generation_tokens)
    record.error = None
    record.status = 0
    record.num_prompt_tokens = record.num_cached_tokens = 0
    record.num_generation_tokens = record.num_reasoning_tokens = 0
