"""`/v1/messages` and `/v1/messages/count_tokens`: a conversation in Anthropic's form."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.outputs import CompletionOutput
from ...engine.structured_params import PARAM
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..errors import ErrorDetails, error_details, error_status
from ..generation import DeltaStream, collect, run, while_connected
from ..json_body import read_message
from ..openai.chat import READING_COST, Chat, prepare_chat
from ..openai.common import answer_bytes, check_common
from ..openai.constraints import name_fields
from ..openai.protocol import ChatCompletionRequest
from ..openai.turns import Turn
from ..sse import StreamStyle, event, open_stream
from .blocks import BlockWriter, whole_blocks
from .conversation import read_conversation
from .protocol import (
    UNSUPPORTED,
    UNSUPPORTED_IN_COUNT,
    AnthropicError,
    AnthropicErrorDetails,
    CountTokensRequest,
    Event,
    MessageAnswer,
    MessageDelta,
    MessagesRequest,
    MessageStart,
    MessageStop,
    MessageUsage,
    Ping,
    Stop,
    StopReason,
    TokenCount,
)

THINKING_SWITCH = "enable_thinking"
"""The variable by which chat templates let thinking be disabled."""

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
    conversation = read_conversation(body)
    try:
        return await _answer(context, request, body, conversation)
    except InvalidRequest as error:
        name_fields(error, conversation)
        error.message = error.message.replace(f"{PARAM}: json", "output_config.format: the schema", 1)
        error.message = error.message.replace("response_format", "output_config.format", 1)
        raise


async def _answer(
    context: ServerContext, request: Request, body: MessagesRequest, conversation: ChatCompletionRequest
) -> Response:
    record: RequestRecord = request.state.record
    conversation.max_tokens = body.max_tokens
    conversation.stop = body.stop_sequences
    conversation.temperature = body.temperature
    conversation.top_k, conversation.top_p = body.top_k, body.top_p
    conversation.user = None if body.metadata is None else body.metadata.user_id
    context = await context.serving(body.model, request.state.record)
    chat = await _make_chat(context, request, body, conversation)
    turn = chat.turn(context.engine.tokenizer)
    answer = MessageAnswer(
        id=f"msg_{record.request_id}", model=context.model_name, content=[], usage=_usage(record)
    )
    if body.stream:
        deltas = DeltaStream(run(context, record, chat.job))
        events = _events(answer, turn, deltas, record)
        return await open_stream(context, request, deltas, events, STREAM_STYLE)
    ((_, output),) = await while_connected(request.receive, collect(run(context, record, chat.job)))
    (part,) = output.outputs

    def write() -> bytes:
        answer.content = whole_blocks(turn.deltas(part))
        answer.stop_reason, answer.stop_sequence = _stop(turn, part)
        answer.usage = _usage(record)
        return msgspec.json.encode(answer)

    size = answer_bytes(output) * (1 if chat.format.is_plain else READING_COST)
    return Response(await context.offload(size, write), media_type="application/json")


async def count_tokens(context: ServerContext, request: Request) -> Response:
    """Counts the tokens of a conversation, as `create_message` would see it."""
    body = await read_message(context, request, CountTokensRequest, unsupported=UNSUPPORTED_IN_COUNT)
    conversation = read_conversation(body)
    context = await context.serving(body.model, request.state.record)
    chat = await _make_chat(context, request, body, conversation)
    return Response(msgspec.json.encode(TokenCount(len(chat.job.prompts[0]))), media_type="application/json")


async def _make_chat(
    context: ServerContext, request: Request, body: CountTokensRequest, conversation: ChatCompletionRequest
) -> Chat:
    """Reads a conversation. Raises `InvalidRequest`, also if the model cannot think as it is asked to."""
    check_common(request, conversation)
    kind = "adaptive" if body.thinking is None else body.thinking.type
    conversation.thinking_token_budget = _budget(body)
    can_switch = kind != "adaptive" and THINKING_SWITCH in context.engine.chat_template.variables(
        with_tools=bool(conversation.tools)
    )
    if can_switch:
        conversation.chat_template_kwargs = {THINKING_SWITCH: kind == "enabled"}
    try:
        chat = await prepare_chat(context, request, conversation)
    except InvalidRequest as error:
        error.message = error.message.replace("thinking_token_budget", "thinking.budget_tokens", 1)
        raise
    if kind == "disabled" and not can_switch and chat.format.model.reasoning is not None:
        raise InvalidRequest("thinking: this model's chat template cannot disable it", param="thinking")
    return chat


def _budget(body: CountTokensRequest) -> int | None:
    """The most tokens of thoughts; it comes with `enabled` alone, and leaves room for an answer."""
    thinking, name = body.thinking, "thinking.budget_tokens"
    if thinking is None:
        return None
    budget = thinking.budget_tokens
    if (budget is None) == (thinking.type == "enabled"):
        raise InvalidRequest(f"{name} is for type 'enabled', which needs it", param=name)
    if budget is not None and isinstance(body, MessagesRequest) and budget >= body.max_tokens:
        raise InvalidRequest(f"{name} must be less than max_tokens, got {budget}", param=name)
    return budget


def _stop(turn: Turn, part: CompletionOutput) -> tuple[StopReason, str | None]:
    """Why an answer ended, and the stop sequence if one did it."""
    reason = turn.finish_reason(part)
    if reason == "tool_calls":
        return "tool_use", None
    if reason == "length":
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
    answer: MessageAnswer, turn: Turn, deltas: DeltaStream, record: RequestRecord
) -> AsyncGenerator[bytes, None]:
    started = False
    blocks = BlockWriter()
    async for batch in deltas:
        events: list[Event] = []
        if not started:
            # Only now is it known how much of the prompt was cached.
            started = True
            answer.usage = _usage(record)
            events += [MessageStart(answer), Ping()]
        for part in (part for _, output in batch for part in output.outputs):
            events += blocks.events(turn.deltas(part))
            if part.finish_reason is not None:
                reason, sequence = _stop(turn, part)
                end = MessageDelta(Stop(stop_reason=reason, stop_sequence=sequence), _usage(record))
                events += [*blocks.end(), end, MessageStop()]
        if events:
            yield b"".join(map(_encode, events))


def _encode(message: Event) -> bytes:
    return event(msgspec.json.encode(message), str(message.__struct_config__.tag))


def write_error(status: int, details: ErrorDetails) -> bytes:
    """An error in Anthropic's form, which has no place for `param` and `code`."""
    kind = ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return msgspec.json.encode(AnthropicError(AnthropicErrorDetails(kind, details.message)))


def _failure(error: Exception) -> bytes:
    return event(write_error(error_status(error), error_details(error)), "error")


STREAM_STYLE = StreamStyle(failure=_failure, end=b"")
