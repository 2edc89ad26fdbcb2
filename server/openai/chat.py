"""`/v1/chat/completions`: the model's next turn in a conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.outputs import CompletionOutput
from ...engine.sampling_params import MAX_LOGPROBS
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..generation import Batch, DeltaStream, Job, collect, encode, run, while_connected
from ..json_body import read_message
from ..sse import event, open_stream
from .chat_prompt import render_prompt
from .chunks import ChunkEncoder
from .common import (
    Envelope,
    answer_bytes,
    check_common,
    check_metadata,
    finish_reason,
    new_envelope,
    priority,
    prompt_logprobs,
    usage,
)
from .logprobs import chat_logprobs
from .params import or_default, sampling_params
from .protocol import (
    UNSUPPORTED_IN_CHAT,
    AnswerMessage,
    ChatChoice,
    ChatChunkChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatLogprobs,
    Delta,
)


async def create_chat_completion(context: ServerContext, request: Request) -> Response:
    """Answers one request, streamed or whole."""
    body = await read_message(context, request, ChatCompletionRequest, unsupported=UNSUPPORTED_IN_CHAT)
    try:
        return await _answer(context, request, body)
    except InvalidRequest as error:
        if error.param == "max_tokens" and body.max_completion_tokens is not None:
            error.param = "max_completion_tokens"
        raise


async def _answer(context: ServerContext, request: Request, body: ChatCompletionRequest) -> Response:
    record: RequestRecord = request.state.record
    check_common(context, request, body)
    check_metadata(record, body.metadata, body.safety_identifier)
    job = await make_job(context, request, body)
    envelope = new_envelope(context, f"chatcmpl-{record.request_id}")
    writer = _Writer(context, body)
    if body.stream:
        deltas = DeltaStream(run(context, record, job))
        events = _events(writer, body, job, deltas, envelope, record)
        return await open_stream(context, request, deltas, events)
    ((_, output),) = await while_connected(request.receive, collect(run(context, record, job)))

    def write() -> bytes:
        answer = ChatCompletion(
            id=envelope.id,
            created=envelope.created,
            model=envelope.model,
            choices=[writer.whole(part) for part in output.outputs],
            usage=usage(record),
        )
        if body.return_token_ids:
            answer.prompt_token_ids = output.prompt_token_ids
        if body.prompt_logprobs is not None and output.prompt_logprobs is not None:
            answer.prompt_logprobs = prompt_logprobs(output.prompt_logprobs, body.prompt_logprobs)
        return msgspec.json.encode(answer)

    return Response(await context.offload(answer_bytes(output), write), media_type="application/json")


async def make_job(context: ServerContext, request: Request, body: ChatCompletionRequest) -> Job:
    """What a chat asks of the engine. Raises `InvalidRequest` naming the field at fault."""
    params = sampling_params(
        body,
        context.engine.model_config.generation,
        n=or_default(body.n, 1),
        max_tokens=_max_tokens(body),
        logprobs=_num_logprobs(body),
        prompt_logprobs=body.prompt_logprobs,
    )
    text = await render_prompt(context, body)
    (tokens,) = await encode(context, [text], add_special_tokens=body.add_special_tokens is True)
    return Job(
        prompts=[tokens], params=[params], priority=priority(request, body), cache_salt=body.cache_salt
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

    def __init__(self, context: ServerContext, body: ChatCompletionRequest) -> None:
        self._tokenizer = context.engine.tokenizer
        self._body = body

    def whole(self, part: CompletionOutput) -> ChatChoice:
        """A finished answer."""
        choice = ChatChoice(
            index=part.index,
            message=AnswerMessage(content=part.text),
            logprobs=self._logprobs(part),
            finish_reason=finish_reason(part) or "stop",
            stop_reason=part.stop_reason,
        )
        if self._body.return_token_ids:
            choice.token_ids = part.token_ids
        return choice

    def deltas(self, batch: Batch) -> Iterator[ChatChunkChoice]:
        """What is new; the end of an answer is a chunk of its own."""
        for _, output in batch:
            for part in output.outputs:
                logprobs = self._logprobs(part)
                if part.text or logprobs is not None or (self._body.return_token_ids and part.token_ids):
                    choice = ChatChunkChoice(
                        index=part.index, delta=Delta(content=part.text), logprobs=logprobs
                    )
                    if self._body.return_token_ids:
                        choice.token_ids = part.token_ids
                    yield choice
                if part.finish_reason is not None:
                    yield ChatChunkChoice(
                        index=part.index,
                        delta=Delta(),
                        finish_reason=finish_reason(part),
                        stop_reason=part.stop_reason,
                    )

    def _logprobs(self, part: CompletionOutput) -> ChatLogprobs | None:
        if not self._body.logprobs or not part.token_ids:
            return None
        return chat_logprobs(
            self._tokenizer, part.token_ids, part.logprobs or [], or_default(self._body.top_logprobs, 0)
        )


async def _events(
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
    first = ChunkEncoder(
        msgspec.structs.replace(plain, prompt_token_ids=job.prompts[0]) if body.return_token_ids else plain
    )
    yield b"".join(
        first(ChatChunkChoice(index=index, delta=Delta(role="assistant", content="")))
        for index in range(job.params[0].n)
    )
    encode_chunk = ChunkEncoder(plain)
    async for batch in deltas:
        if data := b"".join(map(encode_chunk, writer.deltas(batch))):
            yield data
    if with_usage:
        last.usage = usage(record)
        yield event(msgspec.json.encode(last))
