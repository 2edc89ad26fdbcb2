"""From the engine's output to Ollama's lines, and the two routes that give them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.outputs import CompletionOutput
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..generation import DeltaStream, collect, run, while_connected
from ..openai.logprobs import Spelling
from ..stopwatch import Stopwatch
from ..tool_parsers.base import CallArguments, CallStart, Content, Event, Reasoning
from .body import read_body
from .options import check_keep_alive
from .prompts import Plan, plan_chat, plan_generate, serving
from .protocol import (
    UNSUPPORTED_IN_CHAT,
    UNSUPPORTED_IN_GENERATE,
    OllamaAnswerMessage,
    OllamaChatLine,
    OllamaChatRequest,
    OllamaFields,
    OllamaFunction,
    OllamaGenerateLine,
    OllamaGenerateRequest,
    OllamaToolCall,
)
from .stream import open_lines

Route = Literal["generate", "chat"]


async def chat(context: ServerContext, request: Request) -> Response:
    """`/api/chat`: the model's next turn in a conversation."""
    body = await read_body(context, request, OllamaChatRequest, unsupported=UNSUPPORTED_IN_CHAT)
    context = await serving(context, body.model, request.state.record)
    if not body.messages:
        return _loaded(body, "chat")
    return await _answer(context, request, body, await plan_chat(context, request, body), "chat")


async def generate(context: ServerContext, request: Request) -> Response:
    """`/api/generate`: an answer to a prompt, or its continuation."""
    body = await read_body(context, request, OllamaGenerateRequest, unsupported=UNSUPPORTED_IN_GENERATE)
    context = await serving(context, body.model, request.state.record)
    if not body.prompt:
        return _loaded(body, "generate")
    return await _answer(context, request, body, await plan_generate(context, request, body), "generate")


def _loaded(body: OllamaFields, route: Route) -> Response:
    """The answer to a request without a prompt, which asks for the model to be loaded: it is."""
    check_keep_alive(body.keep_alive)
    for name in body.__struct_fields__:
        # Whoever sends one of these has forgotten the prompt.
        if name in ("context", "format", "system", "tools") and getattr(body, name):
            raise InvalidRequest(f"{name} needs a prompt", param=name)
    line = _line(route, body.model, done=True)
    line.done_reason = "load"
    return Response(msgspec.json.encode(line), media_type="application/json")


async def _answer(
    context: ServerContext, request: Request, body: OllamaFields, plan: Plan, route: Route
) -> Response:
    record: RequestRecord = request.state.record
    clock = Stopwatch()
    batches = clock.watch(run(context, record, plan.job))
    writer = _Writer(context, plan, route, body.model)
    if body.stream is not False:
        deltas = DeltaStream(batches)
        return await open_lines(context, request, deltas, _lines(writer, deltas, clock, record))
    ((_, output),) = await while_connected(request.receive, collect(batches))
    (part,) = output.outputs

    def write() -> bytes:
        line = writer.line(part) or writer.empty()
        record.num_reasoning_tokens = writer.num_reasoning_tokens
        return msgspec.json.encode(writer.finished(line, clock, record))

    return Response(await context.offload(len(part.text), write), media_type="application/json")


async def _lines(
    writer: _Writer, deltas: DeltaStream, clock: Stopwatch, record: RequestRecord
) -> AsyncGenerator[bytes, None]:
    async for batch in deltas:
        for _, output in batch:
            for part in output.outputs:
                if (line := writer.line(part)) is not None:
                    yield msgspec.json.encode(line) + b"\n"
    record.num_reasoning_tokens = writer.num_reasoning_tokens
    yield msgspec.json.encode(writer.finished(writer.empty(), clock, record)) + b"\n"


class _Writer:
    """Turns the output of a job, whole or as deltas, into lines."""

    def __init__(self, context: ServerContext, plan: Plan, route: Route, model: str) -> None:
        tokenizer = context.engine.tokenizer
        self._spelling = Spelling(tokenizer, as_ids=False)
        self._plan = plan
        self._route: Route = route
        self._model = model
        self._tokens = list(plan.job.prompts[0])
        self._calls: list[tuple[CallStart, list[str]]] = []
        self._num_calls = 0  # that are written
        self._done_reason = "stop"
        self._reader = None if plan.format.is_plain else plan.format.reader(tokenizer, plan.job.prompts[0])

    @property
    def num_reasoning_tokens(self) -> int:
        """So far."""
        return 0 if self._reader is None else self._reader.num_reasoning_tokens

    def line(self, part: CompletionOutput) -> OllamaChatLine | OllamaGenerateLine | None:
        """What a part of the answer says; None if that is nothing yet."""
        self._tokens += part.token_ids
        events: list[Event] = [Content(part.text)] if self._reader is None else self._reader.take(part)
        content = "".join(event.text for event in events if isinstance(event, Content))
        thinking = "".join(event.text for event in events if isinstance(event, Reasoning))
        calls = self._take_calls(events, is_last=part.finish_reason is not None)
        if part.finish_reason is not None:
            self._done_reason = part.finish_reason
        line = _line(self._route, self._model, content, thinking, calls)
        num_top = self._plan.num_top
        if num_top is not None and part.token_ids:
            found = self._spelling.chat_logprobs(part.token_ids, part.logprobs or [], num_top)
            line.logprobs = found.content
        is_empty = not (content or thinking or calls) and line.logprobs is msgspec.UNSET
        return None if is_empty else line

    def empty(self) -> OllamaChatLine | OllamaGenerateLine:
        """A line that says nothing."""
        return _line(self._route, self._model)

    def finished(
        self, line: OllamaChatLine | OllamaGenerateLine, clock: Stopwatch, record: RequestRecord
    ) -> OllamaChatLine | OllamaGenerateLine:
        """The line as the last one."""
        line.done = True
        line.done_reason = self._done_reason
        line.prompt_eval_count = record.num_prompt_tokens
        line.eval_count = record.num_generation_tokens
        line.load_duration = 0  # the model was loaded when the server started
        line.prompt_eval_duration = _nanoseconds(clock.prompt_seconds)
        line.eval_duration = _nanoseconds(clock.answer_seconds)
        line.total_duration = _nanoseconds(time.perf_counter() - record.started)
        if self._plan.keeps_context and isinstance(line, OllamaGenerateLine):
            line.context = self._tokens
        return line

    def _take_calls(self, events: list[Event], *, is_last: bool) -> list[OllamaToolCall]:
        """The calls that have become whole. One that the end cuts off has no object, and is left out."""
        for event in events:
            if isinstance(event, CallStart):
                self._calls.append((event, []))
            elif isinstance(event, CallArguments):
                self._calls[event.index][1].append(event.text)
        end = len(self._calls) if is_last else len(self._calls) - 1
        whole: list[OllamaToolCall] = []
        while self._num_calls < end:
            start, pieces = self._calls[self._num_calls]
            self._num_calls += 1
            arguments = _object("".join(pieces))
            if arguments is not None:
                function = OllamaFunction(name=start.name, arguments=arguments, index=start.index)
                whole.append(OllamaToolCall(id=start.id, function=function))
        return whole


def _object(text: str) -> dict[str, Any] | None:
    try:
        value: Any = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _line(
    route: Route,
    model: str,
    content: str = "",
    thinking: str = "",
    calls: list[OllamaToolCall] | None = None,
    *,
    done: bool = False,
) -> OllamaChatLine | OllamaGenerateLine:
    created_at = timestamp(time.time())
    thought = thinking or msgspec.UNSET
    if route == "generate":
        return OllamaGenerateLine(
            model=model, created_at=created_at, response=content, thinking=thought, done=done
        )
    message = OllamaAnswerMessage(content=content, thinking=thought, tool_calls=calls or msgspec.UNSET)
    return OllamaChatLine(model=model, created_at=created_at, message=message, done=done)


def timestamp(seconds: float) -> str:
    """A time as RFC 3339 writes it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
