"""TGI's generation: a text is continued, whole or token by token."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from ...engine.sampling_params import SamplingParams
from ...errors import InvalidRequest
from ...models.tokenizer import Tokenizer
from ..context import RequestRecord, ServerContext
from ..generation import DeltaStream, Job, collect, encode, run, while_connected
from ..json_body import convert, read_message
from ..openai.common import LOWEST_LOGPROB, answer_bytes
from ..openai.params import or_default
from ..sse import StreamStyle, event, open_stream
from .failures import failure
from .params import fitted, sampling_params
from .protocol import (
    UNSUPPORTED,
    FinishReason,
    TgiAnswer,
    TgiBestOfSequence,
    TgiDetails,
    TgiEvent,
    TgiParameters,
    TgiPrefillToken,
    TgiRequest,
    TgiStreamDetails,
    TgiToken,
)

# Nothing marks the end.
STYLE = StreamStyle(failure=lambda error: event(failure(error)), end=b"")


async def generate(
    context: ServerContext, request: Request, *, streams: bool | None, in_list: bool = False
) -> Response:
    """Answers one request.

    Args:
        context: The server.
        request: The request.
        streams: Whether the route streams; None if the body's `stream` says so.
        in_list: Whether a whole answer stands in a list.
    """
    body = await read_message(context, request, TgiRequest, unsupported={})
    streamed = body.stream is True if streams is None else streams
    if streams is not None and body.stream not in (None, streams):
        raise InvalidRequest(
            f"stream: {request.url.path} answers {'token by token' if streams else 'at once'}", param="stream"
        )
    parameters = convert(dict(body.parameters or {}), TgiParameters, UNSUPPORTED)
    params = sampling_params(parameters, streams=streamed)
    record: RequestRecord = request.state.record
    context = await context.serving(None, record)
    tokens = await _prompt(context, body, parameters)
    params = fitted(params, parameters, len(tokens), context.engine.max_model_len)
    job = Job(prompts=[tokens], params=[params])
    writer = _Writer(context.engine.tokenizer, body, parameters, job)
    if streamed:
        deltas = DeltaStream(run(context, record, job))
        return await open_stream(context, request, deltas, _events(writer, deltas), STYLE)
    ((_, output),) = await while_connected(request.receive, collect(run(context, record, job)))

    def write() -> bytes:
        answer = writer.whole(output)
        return msgspec.json.encode([answer] if in_list else answer)

    return Response(await context.offload(answer_bytes(output), write), media_type="application/json")


async def _prompt(context: ServerContext, body: TgiRequest, parameters: TgiParameters) -> list[int]:
    if not body.inputs:
        raise InvalidRequest("inputs must not be empty", param="inputs")
    (tokens,) = await encode(context, [body.inputs], add_special_tokens=True)
    return tokens if parameters.truncate is None else tokens[-parameters.truncate :]


async def _events(writer: _Writer, deltas: DeltaStream) -> AsyncGenerator[bytes, None]:
    async for batch in deltas:
        for _, output in batch:
            for part in output.outputs:
                if data := b"".join(event(msgspec.json.encode(each)) for each in writer.events(part)):
                    yield data


class _TokenWriter:
    """Spells the tokens of one answer: their texts, joined, are the answer's with its special tokens."""

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._stream = tokenizer.stream(skip_special_tokens=False, after=after)

    def token(self, token: int, entry: TokenLogprobs, *, is_last: bool) -> TgiToken:
        """The answer's next token."""
        text = self._stream.push([token])
        if is_last:
            text += self._stream.flush()
        return self._written(token, text, entry)

    def top(self, entry: TokenLogprobs, num_top: int) -> list[TgiToken]:
        """The most likely tokens at a place, best first."""
        best = sorted(entry.items(), key=lambda item: item[1].rank)[:num_top]
        return [self._written(token, logprob.decoded_token, entry) for token, logprob in best]

    def _written(self, token: int, text: str, entry: TokenLogprobs) -> TgiToken:
        special = token in self._tokenizer.special_token_ids
        return TgiToken(token, text, max(entry[token].logprob, LOWEST_LOGPROB), special)


class _Writer:
    """Turns the output of a job into TGI's answers and events."""

    def __init__(self, tokenizer: Tokenizer, body: TgiRequest, parameters: TgiParameters, job: Job) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._parameters = parameters
        self._prompt = job.prompts[0]
        self._params: SamplingParams = job.params[0]
        self._num_top = or_default(parameters.top_n_tokens, 0)
        self._token_writer = _TokenWriter(tokenizer, self._prompt)  # of a stream
        self._text: list[str] = [body.inputs] if parameters.return_full_text else []
        self._num_tokens = 0

    def whole(self, output: RequestOutput) -> TgiAnswer:
        """The best of the answers, by the mean log-probability of its tokens."""
        best, *others = sorted(output.outputs, key=_mean_logprob, reverse=True)
        answer = TgiAnswer(generated_text=self._full(best.text))
        if not self._parameters.details:
            return answer
        prefill = self._prefill(output)
        details = TgiDetails(**self._sequence(best, prefill))
        if others:
            details.best_of_sequences = [
                TgiBestOfSequence(generated_text=self._full(part.text), **self._sequence(part, prefill))
                for part in others
            ]
        answer.details = details
        return answer

    def events(self, part: CompletionOutput) -> list[TgiEvent]:
        """An event for each new token; the last one waits for the end of the text."""
        self._text.append(part.text)
        events: list[TgiEvent] = []
        for place, (token, entry) in enumerate(zip(part.token_ids, part.logprobs or [], strict=True), 1):
            is_last = part.finish_reason is not None and place == len(part.token_ids)
            self._num_tokens += 1
            written = self._token_writer.token(token, entry, is_last=is_last)
            found = TgiEvent(index=self._num_tokens, token=written)
            if self._num_top:
                found.top_tokens = self._token_writer.top(entry, self._num_top)
            if is_last:
                found.generated_text = "".join(self._text)
                found.details = TgiStreamDetails(
                    _finish_reason(part), self._num_tokens, self._seed(part), len(self._prompt)
                )
            events.append(found)
        return events

    def _full(self, text: str) -> str:
        return self._body.inputs + text if self._parameters.return_full_text else text

    def _seed(self, part: CompletionOutput) -> int | None:
        return self._params.for_choice(part.index).seed

    def _prefill(self, output: RequestOutput) -> list[TgiPrefillToken]:
        if output.prompt_logprobs is None:
            return []
        return [
            TgiPrefillToken(
                token,
                self._tokenizer.token_text(token),
                None if entry is None else max(entry[token].logprob, LOWEST_LOGPROB),
            )
            for token, entry in zip(self._prompt, output.prompt_logprobs, strict=True)
        ]

    def _sequence(self, part: CompletionOutput, prefill: list[TgiPrefillToken]) -> dict[str, Any]:
        """The fields of a `TgiSequence`."""
        writer = _TokenWriter(self._tokenizer, self._prompt)
        entries = part.logprobs or []
        last = len(part.token_ids) - 1
        fields: dict[str, Any] = {
            "finish_reason": _finish_reason(part),
            "generated_tokens": len(part.token_ids),
            "seed": self._seed(part),
            "prefill": prefill,
            "tokens": [
                writer.token(token, entry, is_last=place == last)
                for place, (token, entry) in enumerate(zip(part.token_ids, entries, strict=True))
            ],
        }
        if self._num_top:
            fields["top_tokens"] = [writer.top(entry, self._num_top) for entry in entries]
        return fields


def _mean_logprob(part: CompletionOutput) -> float:
    return (part.cumulative_logprob or 0.0) / max(1, len(part.token_ids))


def _finish_reason(part: CompletionOutput) -> FinishReason:
    if part.finish_reason == "length":
        return "length"
    return "eos_token" if part.stop_reason is None else "stop_sequence"
