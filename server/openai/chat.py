"""`/v1/chat/completions`: the model's next turn in a conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.input_check import truncate_prompt
from ...engine.outputs import CompletionOutput
from ...engine.sampling_params import MAX_LOGPROBS
from ...errors import InvalidRequest
from ...models.tokenizer import Tokenizer
from ..answers import AnswerFormat, find_format
from ..context import RequestRecord, ServerContext
from ..generation import Batch, DeltaStream, Job, collect, encode, run, while_connected
from ..json_body import read_message
from ..reasoning_parsers.base import ReasoningState
from ..sse import event, open_stream
from .beams import beam_params
from .chat_prompt import ChatPrompt, render_prompt
from .chunks import ChunkEncoder
from .common import (
    Envelope,
    answer_bytes,
    check_common,
    check_metadata,
    continuous_usage,
    new_envelope,
    priority,
    prompt_logprobs,
    timeout,
    usage,
)
from .constraints import constrain, name_fields
from .logprobs import Spelling
from .message_protocol import Delta
from .params import or_default, sampling_params
from .protocol import (
    UNSUPPORTED_IN_CHAT,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatLogprobs,
    Usage,
)
from .tools import Tools, read_tools
from .turns import Turn

READING_COST = 16  # what finding calls and reasoning in a text costs, compared with writing it as JSON


async def create_chat_completion(context: ServerContext, request: Request) -> Response:
    """Answers one request, streamed or whole."""
    body = await read_message(context, request, ChatCompletionRequest, unsupported=UNSUPPORTED_IN_CHAT)
    try:
        return await _answer(context, request, body)
    except InvalidRequest as error:
        name_fields(error, body)
        if error.param == "max_tokens" and body.max_completion_tokens is not None:
            error.param = "max_completion_tokens"
        raise


async def _answer(context: ServerContext, request: Request, body: ChatCompletionRequest) -> Response:
    record: RequestRecord = request.state.record
    check_common(request, body)
    context = await context.serving(body.model, record)
    check_metadata(record, body.metadata, body.safety_identifier)
    chat = await prepare_chat(context, request, body)
    job = chat.job
    envelope = new_envelope(context, f"chatcmpl-{record.request_id}")
    writer = _Writer(context, body, chat)
    if body.stream:
        deltas = DeltaStream(run(context, record, job))
        events = _events(context, writer, body, job, deltas, envelope, record)
        return await open_stream(context, request, deltas, events)
    ((_, output),) = await while_connected(request.receive, collect(run(context, record, job)))

    def write() -> bytes:
        choices = [writer.whole(part) for part in output.outputs]
        record.num_reasoning_tokens = writer.num_reasoning_tokens
        answer = ChatCompletion(
            id=envelope.id,
            created=envelope.created,
            model=envelope.model,
            choices=choices,
            usage=usage(record),
        )
        if body.return_token_ids:
            answer.prompt_token_ids = output.prompt_token_ids
        if body.prompt_logprobs is not None and output.prompt_logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(output.prompt_logprobs, body.prompt_logprobs)
        return msgspec.json.encode(answer)

    size = answer_bytes(output) * (1 if chat.format.is_plain else READING_COST)
    return Response(await context.offload(size, write), media_type="application/json")


@dataclass(frozen=True, slots=True)
class Chat:
    """What a request asks of the engine, and how the answers are to be read."""

    job: Job
    tools: Tools
    format: AnswerFormat

    def turn(self, tokenizer: Tokenizer, *, is_named: bool = False) -> Turn:
        """Reads one of the answers; `is_named` is for dialects in which a named call is no reason to end."""
        reader = None if self.format.is_plain else self.format.reader(tokenizer, self.job.prompts[0])
        return Turn(reader, is_named=is_named)


async def prepare_chat(context: ServerContext, request: Request, body: ChatCompletionRequest) -> Chat:
    """What a request asks of the engine. Raises `InvalidRequest` naming the field at fault."""
    params = sampling_params(
        body,
        context.engine.model_config.generation,
        n=or_default(body.n, 1),
        max_tokens=_max_tokens(body),
        logprobs=_num_logprobs(body),
        prompt_logprobs=body.prompt_logprobs,
    )
    tools = read_tools(body)
    prompt = await render_prompt(context, body, tools)
    answer_format = _answer_format(context, body, prompt, tools)
    (tokens,) = await encode(context, [prompt.text], add_special_tokens=body.add_special_tokens is True)
    tokens = truncate_prompt(tokens, params, context.engine.tokenizer, context.engine.max_model_len)
    left = context.engine.max_model_len - len(tokens)
    num_tokens = left if params.max_tokens is None else min(left, params.max_tokens)
    constraint = constrain(context, body, tools, answer_format, params.structured_outputs, max(1, num_tokens))
    params = replace(
        params,
        structured_outputs=constraint,
        skip_special_tokens=params.skip_special_tokens and not answer_format.needs_special_tokens,
    )
    job = Job(
        prompts=[tokens],
        params=[params],
        priority=priority(request, body),
        cache_salt=body.cache_salt,
        beam_search=beam_params(body, params),
        timeout=timeout(context, body),
    )
    return Chat(job, tools, answer_format)


def _answer_format(
    context: ServerContext, body: ChatCompletionRequest, prompt: ChatPrompt, tools: Tools
) -> AnswerFormat:
    """How the answers are read. Raises `InvalidRequest` if the model's calls could not be."""
    tokenizer = context.engine.tokenizer
    model = find_format(context.settings, prompt.template.sources, tokenizer)
    state: ReasoningState = "possible"
    if model.reasoning is not None:
        state = model.reasoning.state_after(prompt.text, prompt.begun)
    if tools.functions and model.tools is None:
        raise InvalidRequest(
            "tools: how this model writes calls is not known; the server's --tool-call-parser can say",
            param="tools",
            code="unsupported_parameter",
        )
    return AnswerFormat(
        model=model,
        functions=[function.name for function in tools.functions],
        max_calls=None if tools.many else 1,
        special_tokens=tokenizer.special_tokens.keys(),
        show_special_tokens=body.skip_special_tokens is False,
        reasoning_state=state,
        continues=prompt.begun is not None,
    )


def _max_tokens(body: ChatCompletionRequest) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise InvalidRequest(
            f"max_completion_tokens ({body.max_completion_tokens}) and its older name max_tokens "
            f"({body.max_tokens}) differ",
            param="max_completion_tokens",
        )
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def _num_logprobs(body: ChatCompletionRequest) -> int | None:
    top = body.top_logprobs
    if top is not None and not 0 <= top <= MAX_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs must be between 0 and {MAX_LOGPROBS}, got {top}", param="top_logprobs"
        )
    if not body.logprobs:
        if top is not None:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        return None
    return top or 0


class _Writer:
    """Turns the output of a job, whole or as deltas, into choices."""

    def __init__(self, context: ServerContext, body: ChatCompletionRequest, chat: Chat) -> None:
        self._tokenizer = context.engine.tokenizer
        self._spelling = Spelling(self._tokenizer, as_ids=body.return_tokens_as_token_ids is True)
        self._body = body
        self._chat = chat
        self._turns: dict[int, Turn] = {}

    @property
    def num_reasoning_tokens(self) -> int:
        """In all choices so far."""
        return sum(turn.num_reasoning_tokens for turn in self._turns.values())

    def whole(self, part: CompletionOutput) -> ChatChoice:
        """A finished answer."""
        turn = self._turn(part.index)
        message = turn.message(part)
        choice = ChatChoice(
            index=part.index,
            message=message,
            logprobs=self._logprobs(part),
            finish_reason=turn.finish_reason(part) or "stop",
            stop_reason=part.stop_reason,
        )
        if self._body.return_token_ids:
            choice.token_ids = part.token_ids
        return choice

    def deltas(self, batch: Batch) -> Iterator[ChatChunkChoice]:
        """What is new; the end of an answer is a chunk of its own."""
        for _, output in batch:
            for part in output.outputs:
                yield from self._part_deltas(part)

    def _part_deltas(self, part: CompletionOutput) -> Iterator[ChatChunkChoice]:
        turn = self._turn(part.index)
        logprobs = self._logprobs(part)
        token_ids = part.token_ids if self._body.return_token_ids else []
        deltas = turn.deltas(part)
        if not deltas and (logprobs is not None or token_ids):
            deltas = [Delta(content="")]
        for place, delta in enumerate(deltas):
            # What belongs to the tokens goes with the first of the deltas that came of them.
            choice = ChatChunkChoice(index=part.index, delta=delta, logprobs=None if place else logprobs)
            if self._body.return_token_ids and not place:
                choice.token_ids = token_ids
            yield choice
        if part.finish_reason is not None:
            yield ChatChunkChoice(
                index=part.index,
                delta=Delta(),
                finish_reason=turn.finish_reason(part),
                stop_reason=part.stop_reason,
            )

    def _turn(self, index: int) -> Turn:
        found = self._turns.get(index)
        if found is None:
            is_named = self._chat.tools.choice == "named"
            found = self._turns[index] = self._chat.turn(self._tokenizer, is_named=is_named)
        return found

    def _logprobs(self, part: CompletionOutput) -> ChatLogprobs | None:
        if not self._body.logprobs or not part.token_ids:
            return None
        return self._spelling.chat_logprobs(
            part.token_ids, part.logprobs or [], or_default(self._body.top_logprobs, 0)
        )


async def _events(
    context: ServerContext,
    writer: _Writer,
    body: ChatCompletionRequest,
    job: Job,
    deltas: DeltaStream,
    envelope: Envelope,
    record: RequestRecord,
) -> AsyncGenerator[bytes, None]:
    with_usage = body.stream_options is not None and body.stream_options.include_usage is True
    last = ChatCompletionChunk(
        id=envelope.id, created=envelope.created, model=envelope.model, choices=[], usage=None
    )
    plain = last if with_usage else msgspec.structs.replace(last, usage=msgspec.UNSET)

    def usage_so_far() -> Usage:
        record.num_reasoning_tokens = writer.num_reasoning_tokens
        return usage(record, len(job.prompts[0]))

    each_usage = usage_so_far if continuous_usage(body) else None
    encode_chunk = ChunkEncoder(plain, each_usage)
    batches = aiter(deltas)
    batch = await anext(batches, None) if body.prompt_logprobs is not None else None
    first = _first_chunk(plain, body, job, batch)
    roles = [
        ChatChunkChoice(index=index, delta=Delta(role="assistant", content=""))
        for index in range(job.params[0].n)
    ]
    size = 0 if batch is None else sum(answer_bytes(output) for _, output in batch)
    opening = await context.offload(size, lambda: ChunkEncoder(first, each_usage)(roles[0]))
    again = ChunkEncoder(msgspec.structs.replace(first, prompt_logprobs=msgspec.UNSET), each_usage)
    yield opening + b"".join(map(again, roles[1:]))
    if batch is not None and (data := b"".join(map(encode_chunk, writer.deltas(batch)))):
        yield data
    async for batch in batches:
        if data := b"".join(map(encode_chunk, writer.deltas(batch))):
            yield data
    record.num_reasoning_tokens = writer.num_reasoning_tokens
    if with_usage:
        last.usage = usage(record)
        yield event(msgspec.json.encode(last))


def _first_chunk(
    plain: ChatCompletionChunk, body: ChatCompletionRequest, job: Job, batch: Batch | None
) -> ChatCompletionChunk:
    """The chunk that also says what is asked about the prompt; its scores come with the first batch."""
    chunk = msgspec.structs.replace(plain)
    if body.return_token_ids:
        chunk.prompt_token_ids = job.prompts[0]
    for _, output in batch or ():
        if output.prompt_logprobs is not None and body.prompt_logprobs is not None:
            chunk.prompt_logprobs = prompt_logprobs(output.prompt_logprobs, body.prompt_logprobs)
    return chunk
