"""`/v1/responses`: makes responses, remembers them, and lets them be fetched, cancelled and forgotten."""

from __future__ import annotations

import asyncio
import logging

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest, QuireError
from ..context import RequestRecord, ServerContext
from ..generation import DeltaStream, Job, collect, run, while_connected
from ..json_body import read_message
from ..openai.chat import make_chat
from ..openai.common import check_common, check_metadata
from ..openai.message_protocol import ContentPart, Message
from ..openai.protocol import ChatCompletionRequest
from ..sse import StreamStyle, open_stream
from .answer import Answer
from .protocol import UNSUPPORTED, CreateResponse, DeletedResponse, InputMessage
from .store import ResponseStore, StoredResponse

logger = logging.getLogger("quire.server")

PARAMS = {"max_tokens": "max_output_tokens", "messages": "input", "prompt": "input"}
"""Names of a chat's fields, under which its functions report errors, and what they are called here."""

SAME_FIELDS = (
    "cache_salt",
    "chat_template_kwargs",
    "min_p",
    "model",
    "priority",
    "repetition_penalty",
    "request_id",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "user",
)
"""Fields that a chat has too."""


class Responses:
    """The handlers of one server, and what it remembers."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        settings = context.settings
        self.store = ResponseStore(settings.max_stored_responses, settings.max_stored_bytes)

    async def create(self, request: Request) -> Response:
        """Answers one request: whole, streamed, or later."""
        body = await read_message(self._context, request, CreateResponse, unsupported=UNSUPPORTED)
        try:
            return await self._create(request, body)
        except InvalidRequest as error:
            error.param = PARAMS.get(error.param or "", error.param)
            raise

    async def _create(self, request: Request, body: CreateResponse) -> Response:
        record: RequestRecord = request.state.record
        if body.background and body.stream:
            raise InvalidRequest("background and stream exclude each other", param="background")
        if body.background and body.store is False:
            raise InvalidRequest("background needs store: true", param="background")
        messages = [*self._history(body.previous_response_id), *_messages(body.input)]
        chat = _chat(body, messages)
        check_common(self._context, request, chat)
        check_metadata(record, body.metadata, body.safety_identifier)
        job = (await make_chat(self._context, request, chat)).job
        answer = Answer(self._context, record, body, job)
        stored = StoredResponse(answer.response, messages)
        if body.background:
            self._start(stored, answer, record, job)
            return _json(answer.encode())

        def finished() -> None:
            if answer.response.store:
                self.store.add(stored)

        if body.stream:
            deltas = DeltaStream(run(self._context, record, job))
            style = StreamStyle(failure=answer.failure_event, end=b"")
            return await open_stream(self._context, request, deltas, answer.events(deltas, finished), style)
        ((_, output),) = await while_connected(request.receive, collect(run(self._context, record, job)))
        (part,) = output.outputs
        answer.finish(part.text, part)
        finished()
        return _json(answer.encode())

    async def retrieve(self, request: Request) -> Response:
        """A remembered response, as far as it has come."""
        for name, value in request.query_params.items():
            if (name, value) != ("stream", "false"):
                raise InvalidRequest(f"{name[:100]} is not supported yet; leave it out", param=name[:100])
        return _json(msgspec.json.encode(self._find(request).response))

    async def cancel(self, request: Request) -> Response:
        """Ends a response that is made in the background. One that has ended stays as it is."""
        stored = self._find(request)
        if stored.task is None:
            raise InvalidRequest(
                f"{stored.response.id!r} was not created with background: true", param="response_id"
            )
        await self._end(stored)
        return _json(msgspec.json.encode(stored.response))

    async def delete(self, request: Request) -> Response:
        """Forgets a response, and ends it first if it is being made."""
        stored = self._find(request)
        self.store.remove(stored.response.id)
        await self._end(stored)
        return _json(msgspec.json.encode(DeletedResponse(id=stored.response.id)))

    def _find(self, request: Request) -> StoredResponse:
        return self.store.get(request.path_params["response_id"])

    def _history(self, previous: str | None) -> list[Message]:
        """The turns up to a remembered answer. Raises `InvalidRequest` if there is no such answer."""
        if previous is None:
            return []
        try:
            stored = self.store.get(previous)
        except QuireError as error:
            raise InvalidRequest(
                error.message, param="previous_response_id", code="previous_response_not_found"
            ) from None
        if stored.response.status not in ("completed", "incomplete"):
            raise InvalidRequest(
                f"previous_response_id: that response is {stored.response.status}",
                param="previous_response_id",
            )
        return stored.conversation()

    def _start(self, stored: StoredResponse, answer: Answer, record: RequestRecord, job: Job) -> None:
        """Makes an answer in the background; the server's end waits for it as for any request."""
        self.store.add(stored)
        context = self._context
        context.num_in_flight += 1
        stored.task = asyncio.create_task(self._work(stored, answer, record, job))

        def ended(_: object) -> None:
            context.num_in_flight -= 1

        stored.task.add_done_callback(ended)

    async def _work(self, stored: StoredResponse, answer: Answer, record: RequestRecord, job: Job) -> None:
        answer.response.status = "in_progress"
        try:
            ((_, output),) = await collect(run(self._context, record, job))
            (part,) = output.outputs
            answer.finish(part.text, part)
        except Exception as error:
            # Nobody waits for it here: who asks for the response learns of it.
            if not isinstance(error, QuireError):
                logger.exception("request %s failed in the background", record.internal_id)
            answer.fail(error)
        self.store.update(stored)

    async def _end(self, stored: StoredResponse) -> None:
        if stored.task is None or not stored.is_running:
            return
        stored.task.cancel()
        await asyncio.wait({stored.task})
        if stored.is_running:
            stored.response.status = "cancelled"


def _chat(body: CreateResponse, messages: list[Message]) -> ChatCompletionRequest:
    """The conversation as a chat, instructions first."""
    first = [] if body.instructions is None else [Message(role="system", content=body.instructions)]
    return ChatCompletionRequest(
        messages=[*first, *messages],
        max_tokens=body.max_output_tokens,
        **{name: getattr(body, name) for name in SAME_FIELDS},
    )


def _messages(turns: str | list[InputMessage]) -> list[Message]:
    if isinstance(turns, str):
        return [Message(role="user", content=turns)]
    if not turns:
        raise InvalidRequest("input must not be empty", param="input")
    return [
        Message(
            role=turn.role,
            content=turn.content
            if isinstance(turn.content, str)
            else [ContentPart(type="text", text=part.text) for part in turn.content],
        )
        for turn in turns
    ]


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
