"""`/v1/messages` and `/v1/messages/count_tokens`: a conversation in Anthropic's form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.outputs import CompletionOutput
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..errors import ErrorDetails, error_details, error_status
from ..generation import DeltaStream, collect, run, while_connected
from ..json_body import read_message
from ..openai.chat import make_chat
from ..openai.common import check_common
from ..openai.message_protocol import ContentPart, Message
from ..openai.protocol import ChatCompletionRequest
from ..sse import StreamStyle, event, open_stream
from .protocol import (
    UNSUPPORTED,
    UNSUPPORTED_IN_COUNT,
    AnswerBlock,
    AnthropicError,
    AnthropicErrorDetails,
    BlockDelta,
    BlockStart,
    BlockStop,
    CountTokensRequest,
    Event,
    InputMessage,
    MessageAnswer,
    MessageDelta,
    MessagesRequest,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    Stop,
    StopReason,
    TextBlock,
    TextDelta,
    TokenCount,
)

ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


async def create_message(context: ServerContext, request: Request) -> Response:
    """Answers one request, streamed or whole."""
    body = await read_message(context, request, MessagesRequest, unsupported=UNSUPPORTED)
    record: RequestRecord = request.state.record
    chat = _chat(body)
    chat.max_tokens = body.max_tokens
    chat.stop = body.stop_sequences
    chat.temperature, chat.top_k, chat.top_p = body.temperature, body.top_k, body.top_p
    chat.user = None if body.metadata is None else body.metadata.user_id
    check_common(context, request, chat)
    job = (await make_chat(context, request, chat)).job
    answer = MessageAnswer(
        id=f"msg_{record.request_id}", model=context.model_name, content=[], usage=_usage(record)
    )
    if body.stream:
        deltas = DeltaStream(run(context, record, job))
        return await open_stream(context, request, deltas, _events(answer, deltas, record), STREAM_STYLE)
    ((_, output),) = await while_connected(request.receive, collect(run(context, record, job)))
    (part,) = output.outputs
    if part.text:
        answer.content.append(AnswerBlock(text=part.text))
    answer.stop_reason, answer.stop_sequence = _stop(part)
    answer.usage = _usage(record)
    return Response(msgspec.json.encode(answer), media_type="application/json")


async def count_tokens(context: ServerContext, request: Request) -> Response:
    """Counts the tokens of a conversation, as `create_message` would see it."""
    body = await read_message(context, request, CountTokensRequest, unsupported=UNSUPPORTED_IN_COUNT)
    chat = _chat(body)
    check_common(context, request, chat)
    job = (await make_chat(context, request, chat)).job
    return Response(msgspec.json.encode(TokenCount(len(job.prompts[0]))), media_type="application/json")


def _chat(body: CountTokensRequest) -> ChatCompletionRequest:
    """The conversation as a chat. Raises `InvalidRequest`."""
    messages = _messages(body.messages)
    unfinished = bool(messages) and messages[-1].role == "assistant"
    if unfinished and not any((part.text or "").strip() for part in _parts(messages[-1].content)):
        raise InvalidRequest("messages: the assistant's turn to go on with is empty", param="messages")
    if body.system is not None and messages:
        messages.insert(0, Message(role="system", content=_content(body.system)))
    return ChatCompletionRequest(
        model=body.model, messages=messages, continue_final_message=True if unfinished else None
    )


def _messages(turns: Sequence[InputMessage]) -> list[Message]:
    """The turns, of which no two of the same role follow each other: many templates refuse those."""
    messages: list[Message] = []
    for turn in turns:
        content = _content(turn.content)
        if messages and messages[-1].role == turn.role:
            messages[-1].content = [*_parts(messages[-1].content), *_parts(content)]
        else:
            messages.append(Message(role=turn.role, content=content))
    return messages


def _parts(content: str | list[ContentPart] | None) -> list[ContentPart]:
    if content is None:
        return []
    return [ContentPart(type="text", text=content)] if isinstance(content, str) else content


def _content(content: str | list[TextBlock]) -> str | list[ContentPart]:
    if isinstance(content, str):
        return content
    return [ContentPart(type="text", text=block.text) for block in content]


def _stop(part: CompletionOutput) -> tuple[StopReason, str | None]:
    """Why an answer ended, and the stop sequence if one did it."""
    if part.finish_reason == "length":
        return "max_tokens", None
    if isinstance(part.stop_reason, str):
        return "stop_sequence", part.stop_reason
    return "end_turn", None


def _usage(record: RequestRecord) -> MessageUsage:
    """The tokens so far."""
    return MessageUsage(
        input_tokens=record.num_prompt_tokens - record.num_cached_tokens,
        output_tokens=record.num_generation_tokens,
        cache_read_input_tokens=record.num_cached_tokens,
    )


async def _events(
    answer: MessageAnswer, deltas: DeltaStream, record: RequestRecord
) -> AsyncGenerator[bytes, None]:
    started = has_block = False
    async for batch in deltas:
        events: list[Event] = []
        if not started:
            # Only now is it known how much of the prompt was cached.
            started = True
            answer.usage = _usage(record)
            events += [MessageStart(answer), Ping()]
        for part in (part for _, output in batch for part in output.outputs):
            if part.text:
                if not has_block:
                    has_block = True
                    events.append(BlockStart(0, AnswerBlock(text="")))
                events.append(BlockDelta(0, TextDelta(part.text)))
            if part.finish_reason is not None:
                events += _end(part, record, has_block=has_block)
        if events:
            yield b"".join(map(_encode, events))


def _end(part: CompletionOutput, record: RequestRecord, *, has_block: bool) -> Iterator[Event]:
    if has_block:
        yield BlockStop(0)
    reason, sequence = _stop(part)
    yield MessageDelta(Stop(stop_reason=reason, stop_sequence=sequence), _usage(record))
    yield MessageStop()


def _encode(message: Event) -> bytes:
    return event(msgspec.json.encode(message), str(message.__struct_config__.tag))


def write_error(status: int, details: ErrorDetails) -> bytes:
    """An error in Anthropic's form, which has no place for `param` and `code`."""
    kind = ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode(AnthropicError(AnthropicErrorDetails(kind, details.message)))


def _failure(error: Exception) -> bytes:
    return event(write_error(error_status(error), error_details(error)), "error")


STREAM_STYLE = StreamStyle(failure=_failure, end=b"")
