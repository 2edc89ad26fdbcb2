"""`/completion`: a prompt is continued, whole or as it comes."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.outputs import CompletionOutput
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..generation import DeltaStream, Job, collect, encode, run, while_connected
from ..json_body import read_message
from ..openai.common import LOWEST_LOGPROB, answer_bytes
from ..sse import StreamStyle, event, open_stream
from ..stopwatch import Stopwatch
from .failures import failure
from .params import sampling_params, settings
from .protocol import (
    UNSUPPORTED,
    LlamaCompletion,
    LlamaCompletionRequest,
    LlamaProb,
    LlamaTimings,
    LlamaTopProb,
)

# Nothing marks the end.
STYLE = StreamStyle(failure=lambda error: event(failure(error)), end=b"")


async def complete(context: ServerContext, request: Request) -> Response:
    """Answers one request, streamed or whole."""
    body = await read_message(context, request, LlamaCompletionRequest, unsupported=UNSUPPORTED)
    record: RequestRecord = request.state.record
    context = await context.serving(body.model, record)
    tokens = await _prompt(context, body)
    params = sampling_params(context, body, len(tokens))
    # Nobody else has this salt: nothing that is cached is found.
    salt = uuid.uuid4().hex if body.cache_prompt is False else None
    job = Job(prompts=[tokens], params=[params], cache_salt=salt)
    clock = Stopwatch()
    writer = _Writer(context, body, job, record, clock)
    batches = clock.watch(run(context, record, job))
    if body.stream:
        deltas = DeltaStream(batches)
        return await open_stream(context, request, deltas, _events(writer, deltas), STYLE)
    ((_, output),) = await while_connected(request.receive, collect(batches))
    (part,) = output.outputs

    def write() -> bytes:
        return msgspec.json.encode(writer.last(writer.part(part), part))

    return Response(await context.offload(answer_bytes(output), write), media_type="application/json")


async def _prompt(context: ServerContext, body: LlamaCompletionRequest) -> list[int]:
    """The prompt's tokens; a text at its beginning, and nowhere else, gets what stands before texts."""
    parts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(parts) > 1 and all(isinstance(part, str) for part in parts):
        raise InvalidRequest(
            f"prompt holds {len(parts)} prompts; send a request for each of them", param="prompt"
        )
    if len(parts) > context.engine.max_model_len:
        raise InvalidRequest(
            f"prompt has {len(parts)} parts, and the context holds {context.engine.max_model_len} tokens",
            param="prompt",
        )
    tokens: list[int] = []
    for place, part in enumerate(parts):
        if isinstance(part, str):
            tokens += (await encode(context, [part], add_special_tokens=place == 0))[0]
        else:
            tokens.append(part)
    return tokens


async def _events(writer: _Writer, deltas: DeltaStream) -> AsyncGenerator[bytes, None]:
    async for batch in deltas:
        for _, output in batch:
            for part in output.outputs:
                found = writer.part(part)
                if found.content or found.tokens:
                    yield event(msgspec.json.encode(found))
                if part.finish_reason is not None:
                    yield event(msgspec.json.encode(writer.last(writer.empty(), part)))


class _Writer:
    """Turns the output of a job, whole or as deltas, into llama.cpp's messages."""

    def __init__(
        self,
        context: ServerContext,
        body: LlamaCompletionRequest,
        job: Job,
        record: RequestRecord,
        clock: Stopwatch,
    ) -> None:
        self._context = context
        self._body = body
        self._job = job
        self._record = record
        self._clock = clock
        self._has_new_line = False

    def part(self, part: CompletionOutput) -> LlamaCompletion:
        """What is new."""
        self._has_new_line |= "\n" in part.text
        found = self.empty()
        found.content = part.text
        # A stream always shows tokens, a whole answer if it is asked for them.
        if self._body.stream or self._body.return_tokens:
            found.tokens = part.token_ids
        if self._job.params[0].logprobs is not None:
            found.completion_probabilities = self._probabilities(part)
        return found

    def empty(self) -> LlamaCompletion:
        """A message that says nothing new."""
        record = self._record
        return LlamaCompletion(
            content="",
            tokens=[],
            stop=False,
            tokens_predicted=record.num_generation_tokens,
            tokens_evaluated=record.num_prompt_tokens,
        )

    def last(self, message: LlamaCompletion, part: CompletionOutput) -> LlamaCompletion:
        """The message as the last one."""
        message.stop = True
        message.model = self._context.model_name
        message.generation_settings = settings(self._context, self._body, self._job.params[0])
        message.prompt = self._context.engine.tokenizer.decode(
            self._job.prompts[0], skip_special_tokens=False
        )
        message.has_new_line = self._has_new_line
        message.truncated = False  # prompts that are too long are refused
        message.stop_type = _stop_type(part)
        message.stopping_word = part.stop_reason if isinstance(part.stop_reason, str) else ""
        message.tokens_cached = self._record.num_cached_tokens
        message.timings = self._timings()
        return message

    def _timings(self) -> LlamaTimings:
        cached = self._record.num_cached_tokens
        num_prompt = self._record.num_prompt_tokens - cached
        num_predicted = self._record.num_generation_tokens
        # Clocks may stand still between two readings.
        prompt = max(self._clock.prompt_seconds, 1e-9)
        answer = max(self._clock.answer_seconds, 1e-9)
        return LlamaTimings(
            cache_n=cached,
            prompt_n=num_prompt,
            prompt_ms=prompt * 1000,
            prompt_per_token_ms=prompt * 1000 / max(1, num_prompt),
            prompt_per_second=num_prompt / prompt,
            predicted_n=num_predicted,
            predicted_ms=answer * 1000,
            predicted_per_token_ms=answer * 1000 / max(1, num_predicted),
            predicted_per_second=num_predicted / answer,
        )

    def _probabilities(self, part: CompletionOutput) -> list[LlamaProb]:
        num_top = self._body.n_probs or 0
        probabilities: list[LlamaProb] = []
        for token, entry in zip(part.token_ids, part.logprobs or [], strict=True):
            best = sorted(entry.items(), key=lambda item: item[1].rank)[:num_top]
            top = [
                LlamaTopProb(other, item.decoded_token, self._bytes(other), max(item.logprob, LOWEST_LOGPROB))
                for other, item in best
            ]
            own = entry[token]
            logprob = max(own.logprob, LOWEST_LOGPROB)
            probabilities.append(LlamaProb(token, own.decoded_token, self._bytes(token), logprob, top))
        return probabilities

    def _bytes(self, token: int) -> list[int]:
        return list(self._context.engine.tokenizer.token_bytes(token))


def _stop_type(part: CompletionOutput) -> Literal["eos", "limit", "word"]:
    if part.finish_reason == "length":
        return "limit"
    return "word" if isinstance(part.stop_reason, str) else "eos"
