"""`/v1/completions`: text that goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.beam_search import BeamSearchParams
from ...engine.input_check import truncate_prompt
from ...engine.output_processor import keep_best
from ...engine.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from ...engine.sampling_params import SamplingParams
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..generation import Batch, DeltaStream, Job, collect, encode, run, while_connected
from ..json_body import read_message
from ..sse import event, open_stream
from .beams import beam_params
from .chunks import ChunkEncoder
from .common import (
    Envelope,
    answer_bytes,
    check_common,
    continuous_usage,
    finish_reason,
    new_envelope,
    priority,
    prompt_logprobs,
    timeout,
    usage,
)
from .infill import add_suffix
from .logprobs import Spelling, TextOffsets
from .params import or_default, sampling_params
from .protocol import (
    UNSUPPORTED_IN_COMPLETIONS,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
)
from .structured import rename_param

DEFAULT_MAX_TOKENS = 16


async def create_completion(context: ServerContext, request: Request) -> Response:
    """Answers one request, streamed or whole."""
    body = await read_message(context, request, CompletionRequest, unsupported=UNSUPPORTED_IN_COMPLETIONS)
    try:
        return await _answer(context, request, body)
    except InvalidRequest as error:
        rename_param(error, body)
        raise


async def _answer(context: ServerContext, request: Request, body: CompletionRequest) -> Response:
    record: RequestRecord = request.state.record
    check_common(request, body)
    context = await context.serving(body.model, record)
    params = _params(context, body)
    if params.ranks and body.stream:
        raise InvalidRequest("best_of above n cannot be streamed", param="best_of")
    beam_search = beam_params(body, params)
    if beam_search is not None:
        params = replace(params, best_of=None)  # the search has its own ranking
    job = await _job(context, request, body, params.with_all_choices(), beam_search)
    envelope = new_envelope(context, f"cmpl-{record.request_id}")
    writer = _Writer(context, body)
    if body.stream:
        deltas = DeltaStream(run(context, record, job))
        return await open_stream(
            context, request, deltas, _events(context, writer, body, job, deltas, envelope, record)
        )
    totals = await while_connected(request.receive, collect(run(context, record, job)))

    def write() -> bytes:
        return msgspec.json.encode(
            CompletionResponse(
                id=envelope.id,
                created=envelope.created,
                model=envelope.model,
                choices=[
                    choice
                    for index, output in totals
                    for choice in writer.whole(index, keep_best(output, params))
                ],
                usage=usage(record),
            )
        )

    size = sum(answer_bytes(output) for _, output in totals)
    return Response(await context.offload(size, write), media_type="application/json")


async def _job(
    context: ServerContext,
    request: Request,
    body: CompletionRequest,
    params: SamplingParams,
    beam_search: BeamSearchParams | None,
) -> Job:
    prompts = split_prompts(body.prompt, context.settings.max_prompts)
    num_choices = params.n if beam_search is None else beam_search.beam_width
    if len(prompts) * num_choices > context.settings.max_sequences:
        raise InvalidRequest(
            f"prompts × n (or best_of) may be at most {context.settings.max_sequences}, "
            f"got {len(prompts)} × {num_choices}",
            param="n",
        )
    prompts = add_suffix(context.engine.tokenizer, body, prompts)
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(await encode(context, texts, add_special_tokens=body.add_special_tokens is not False))
    tokens = [next(encoded) if isinstance(prompt, str) else prompt for prompt in prompts]
    limit, tokenizer = context.engine.max_model_len, context.engine.tokenizer
    tokens = [truncate_prompt(prompt, params, tokenizer, limit) for prompt in tokens]
    return Job(
        prompts=tokens,
        params=[
            # The default gives way to a long prompt; what the client asked for does not.
            replace(params, max_tokens=max(1, min(DEFAULT_MAX_TOKENS, limit - len(prompt))))
            if body.max_tokens is None
            else params
            for prompt in tokens
        ],
        priority=priority(request, body),
        cache_salt=body.cache_salt,
        beam_search=beam_search,
        timeout=timeout(context, body),
    )


def _params(context: ServerContext, body: CompletionRequest) -> SamplingParams:
    scores = body.prompt_logprobs
    if body.echo and (body.logprobs is not None or body.max_tokens == 0):
        scores = max(or_default(scores, 0), or_default(body.logprobs, 0))
    return sampling_params(
        body,
        context.engine.model_config.generation,
        n=or_default(body.n, 1),
        best_of=body.best_of,
        max_tokens=or_default(body.max_tokens, DEFAULT_MAX_TOKENS),
        logprobs=body.logprobs,
        prompt_logprobs=scores,
    )


def split_prompts(prompt: object, max_prompts: int) -> list[str | list[int]]:
    """The prompts in the four shapes that `prompt` can have. Raises `InvalidRequest`."""
    if isinstance(prompt, str):
        prompts: list[str | list[int]] = [prompt]
    elif isinstance(prompt, list) and prompt and all(isinstance(item, int) for item in prompt):
        prompts = [prompt]
    elif isinstance(prompt, list) and len({type(item) for item in prompt}) == 1:
        prompts = list(prompt)
    else:
        raise InvalidRequest(
            "prompt must be a text, token ids, or a list of texts or of lists of token ids", param="prompt"
        )
    if len(prompts) > max_prompts:
        raise InvalidRequest(
            f"a request may have at most {max_prompts} prompts, got {len(prompts)}", param="prompt"
        )
    if not all(prompts):
        raise InvalidRequest("a prompt is empty", param="prompt")
    return prompts


class _Writer:
    """Turns the outputs of a job, whole or as deltas, into choices."""

    def __init__(self, context: ServerContext, body: CompletionRequest) -> None:
        self._tokenizer = context.engine.tokenizer
        self._spelling = Spelling(self._tokenizer, as_ids=body.return_tokens_as_token_ids is True)
        self._body = body
        self._n = or_default(body.n, 1)
        self._skip_special_tokens = body.skip_special_tokens is not False
        self._offsets: dict[tuple[int, int], TextOffsets] = {}
        self._prompt_logprobs: dict[int, list[TokenLogprobs | None]] = {}

    def whole(self, prompt: int, output: RequestOutput) -> list[CompletionChoice]:
        """The choices of a finished prompt."""
        choices = [self.choice(prompt, output, part) for part in output.outputs]
        if self._body.prompt_logprobs is not None and output.prompt_logprobs is not None:
            for choice in choices:
                choice.prompt_logprobs = prompt_logprobs(output.prompt_logprobs, self._body.prompt_logprobs)
        return choices

    def deltas(self, batch: Batch) -> Iterator[CompletionChoice]:
        """The choices with something new to say."""
        for prompt, output in batch:
            scores = output.prompt_logprobs
            for part in output.outputs:
                choice = self.choice(prompt, output, part)
                silent = not choice.text and choice.finish_reason is None and choice.logprobs is None
                if scores is not None and self._body.prompt_logprobs is not None:
                    choice.prompt_logprobs = prompt_logprobs(scores, self._body.prompt_logprobs)
                    scores, silent = None, False  # once for a prompt, not for each of its choices
                if not silent or choice.token_ids is not msgspec.UNSET:
                    yield choice

    def choice(self, prompt: int, output: RequestOutput, part: CompletionOutput) -> CompletionChoice:
        """One choice, or what is new in it."""
        body = self._body
        if output.prompt_logprobs is not None:  # they come once, with whichever choice is first
            self._prompt_logprobs[prompt] = output.prompt_logprobs
        offsets = self._offsets.get((prompt, part.index))
        is_first = offsets is None
        if offsets is None:
            offsets = TextOffsets(
                self._tokenizer,
                output.prompt_token_ids,
                echo=body.echo is True,
                skip_special_tokens=self._skip_special_tokens,
            )
            self._offsets[prompt, part.index] = offsets
        choice = CompletionChoice(
            index=prompt * self._n + part.index,
            text=part.text,
            finish_reason=finish_reason(part),
            stop_reason=part.stop_reason,
        )
        with_prompt = is_first and body.echo is True
        if with_prompt:
            choice.text = self._prompt_text(prompt, output.prompt_token_ids) + part.text
        if body.logprobs is not None and (with_prompt or part.token_ids):
            logprobs = CompletionLogprobs([], [], [], [])
            if with_prompt:
                entries = self._prompt_logprobs[prompt]
                self._spelling.add_logprobs(
                    logprobs, output.prompt_token_ids, entries, offsets, body.logprobs
                )
                offsets.end_prompt()
            self._spelling.add_logprobs(logprobs, part.token_ids, part.logprobs or [], offsets, body.logprobs)
            choice.logprobs = logprobs
        if body.return_token_ids:
            choice.token_ids = part.token_ids
            if is_first:
                choice.prompt_token_ids = output.prompt_token_ids
        return choice

    def _prompt_text(self, prompt: int, tokens: list[int]) -> str:
        given = self._body.prompt
        text = given if isinstance(given, str) else given[prompt]
        # Of a prompt that may have been cut, the text is that of its tokens.
        if isinstance(text, str) and self._body.truncate_prompt_tokens is None:
            return text
        return self._tokenizer.decode(tokens, skip_special_tokens=self._skip_special_tokens)


async def _events(
    context: ServerContext,
    writer: _Writer,
    body: CompletionRequest,
    job: Job,
    deltas: DeltaStream,
    envelope: Envelope,
    record: RequestRecord,
) -> AsyncGenerator[bytes, None]:
    with_usage = body.stream_options is not None and body.stream_options.include_usage is True
    last = CompletionResponse(
        id=envelope.id, created=envelope.created, model=envelope.model, choices=[], usage=None
    )
    encode_chunk = ChunkEncoder(
        last if with_usage else msgspec.structs.replace(last, usage=msgspec.UNSET),
        partial(usage, record, sum(map(len, job.prompts))) if continuous_usage(body) else None,
    )

    def write(batch: Batch) -> bytes:
        return b"".join(map(encode_chunk, writer.deltas(batch)))

    async for batch in deltas:
        # Only the scores of a prompt are long: they come in one piece.
        size = sum(answer_bytes(output) for _, output in batch if output.prompt_logprobs is not None)
        if data := await context.offload(size, partial(write, batch)):
            yield data
    if with_usage:
        last.usage = usage(record)
        yield event(msgspec.json.encode(last))
