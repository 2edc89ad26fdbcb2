"""`/v1/responses`: makes responses, remembers them, and lets them be fetched, cancelled and forgotten."""

from __future__ import annotations

import asyncio
import logging

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.outputs import RequestOutput
from ...errors import InvalidRequest, QuireError
from ..context import RequestRecord, ServerContext
from ..generation import DeltaStream, collect, run, while_connected
from ..json_body import read_message
from ..openai.chat import READING_COST, Chat, prepare_chat
from ..openai.common import answer_bytes, check_common, check_metadata
from ..openai.constraints import name_fields
from ..openai.message_protocol import Message
from ..openai.protocol import ChatCompletionRequest
from ..openai.structured import JsonSchema, JsonSchemaFormat, ResponseFormat
from ..sse import StreamStyle, open_stream
from .answer import Answer
from .conversation import read_choice, read_input, read_tool
from .protocol import UNSUPPORTED, CreateResponse, DeletedResponse, NamedFunction, NamedSchemaFormat
from .store import ResponseStore, StoredResponse

logger = logging.getLogger("quire.server")

PARAMS = {
    "max_tokens": "max_output_tokens",
    "prompt": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}
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
            messages = [*self._history(body.previous_response_id), *read_input(body.input)]
            chat = _chat(body, messages)
            try:
                return await self._create(request, body, messages, chat)
            except InvalidRequest as error:
                name_fields(error, chat)
                raise
        except InvalidRequest as error:
            _rename_param(error)
            raise

    async def _create(
        self, request: Request, body: CreateResponse, messages: list[Message], chat: ChatCompletionRequest
    ) -> Response:
        record: RequestRecord = request.state.record
        if body.background and body.stream:
            raise InvalidRequest("background and stream exclude each other", param="background")
        if body.background and body.store is False:
            raise InvalidRequest("background needs store: true", param="background")
        check_common(request, chat)
        context = await self._context.serving(body.model, record)
        check_metadata(record, body.metadata, body.safety_identifier)
        asked = await prepare_chat(context, request, chat)
        job = asked.job
        answer = Answer(context, record, body, job, asked.turn(context.engine.tokenizer))
        stored = StoredResponse(answer.response, messages)
        if body.background:
            self._start(context, stored, answer, record, asked)
            return _json(answer.encode())

        def finished() -> None:
            if answer.response.store and not record.is_mirrored:
                self.store.add(stored)

        if body.stream:
            deltas = DeltaStream(run(context, record, job))
            style = StreamStyle(failure=answer.failure_event, end=b"")
            return await open_stream(context, request, deltas, answer.events(deltas, finished), style)
        ((_, output),) = await while_connected(request.receive, collect(run(context, record, job)))
        await self._finish(answer, output, asked)
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

    def _start(
        self,
        context: ServerContext,
        stored: StoredResponse,
        answer: Answer,
        record: RequestRecord,
        asked: Chat,
    ) -> None:
        """Makes an answer in the background; the server's end waits for it as for any request."""
        self.store.add(stored)
        context.num_in_flight += 1
        context.model.enter()
        stored.task = asyncio.create_task(self._work(context, stored, answer, record, asked))

        def ended(_: object) -> None:
            context.num_in_flight -= 1
            context.model.leave()

        stored.task.add_done_callback(ended)

    async def _work(
        self,
        context: ServerContext,
        stored: StoredResponse,
        answer: Answer,
        record: RequestRecord,
        asked: Chat,
    ) -> None:
        answer.response.status = "in_progress"
        try:
            ((_, output),) = await collect(run(context, record, asked.job))
            await self._finish(answer, output, asked)
        except Exception as error:
            # Nobody waits for it here: who asks for the response learns of it.
            if not isinstance(error, QuireError):
                logger.exception("request %s failed in the background", record.internal_id)
            answer.fail(error)
        self.store.update(stored)

    async def _finish(self, answer: Answer, output: RequestOutput, asked: Chat) -> None:
        (part,) = output.outputs
        size = answer_bytes(output) * (1 if asked.format.is_plain else READING_COST)
        await self._context.offload(size, lambda: answer.finish(part))

    async def _end(self, stored: StoredResponse) -> None:
        if stored.task is None or not stored.is_running:
            return
        stored.task.cancel()
        await asyncio.wait({stored.task})
        if stored.is_running:
            stored.response.status = "cancelled"


def _rename_param(error: InvalidRequest) -> None:
    """Lets an error about the chat that a request becomes name the request's own field."""
    param = error.param or ""
    if param.startswith("messages"):
        error.param = "input"  # items are not the messages that they become one by one
    elif param.startswith("tools"):
        error.param = param.replace("].function", "]", 1)
        error.message = error.message.replace(param, error.param, 1)
    elif param in PARAMS:
        error.param = PARAMS[param]
        if param == "response_format":
            error.message = error.message.replace("response_format.json_schema", "text.format", 1)
            error.message = error.message.replace("response_format", "text.format", 1)


def _response_format(body: CreateResponse) -> ResponseFormat | None:
    """The form that the text must have, as chats have it."""
    asked = None if body.text is None else body.text.format
    if not isinstance(asked, NamedSchemaFormat):
        return asked
    schema = JsonSchema(
        name=asked.name, schema=asked.schema, description=asked.description, strict=asked.strict
    )
    return JsonSchemaFormat(json_schema=schema)


def _chat(body: CreateResponse, messages: list[Message]) -> ChatCompletionRequest:
    """The conversation as a chat, instructions first."""
    if body.top_logprobs and not body.include:
        raise InvalidRequest(
            'top_logprobs needs include: ["message.output_text.logprobs"]', param="top_logprobs"
        )
    first = [] if body.instructions is None else [Message(role="system", content=body.instructions)]
    chat = ChatCompletionRequest(
        messages=[*first, *messages],
        max_tokens=body.max_output_tokens,
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        response_format=_response_format(body),
        logprobs=True if body.include else None,
        top_logprobs=body.top_logprobs if body.include else None,
        **{name: getattr(body, name) for name in SAME_FIELDS},
    )
    choice = body.tool_choice
    if body.tools or choice not in (None, "auto", "none"):
        # Without tools, clients may still send what asks for nothing special.
        chat.tools = [read_tool(tool) for tool in body.tools] if body.tools else None
        chat.tool_choice = read_choice(choice) if isinstance(choice, NamedFunction) else choice
    if body.tools or body.parallel_tool_calls is False:
        chat.parallel_tool_calls = body.parallel_tool_calls
    return chat


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
