"""`/v1/completions`: text that goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...engine.output_processor import merge
from ...engine.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from ...engine.sampling_params import SamplingParams
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..generation import Batch, DeltaStream, Job, encode, run, while_connected
from ..json_body import read_message
from ..sse import open_stream
from .chunks import ChunkEncoder
from .common import Envelope, check_common, priority, prompt_logprobs, usage
from .logprobs import TextOffsets, completion_logprobs
from .params import or_default, sampling_params
from .protocol import (
    UNSUPPORTED_IN_COMPLETIONS,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    CompletionResponse,
    PromptLogprobs,
)

DEFAULT_MAX_TOKENS = 16


async def create_completion(context: ServerContext, request: Request) -> Response:
    """Answers one request, streamed or whole."""
    record: RequestRecord = request.state.record
    body = await read_message(
        request, CompletionRequest, context.settings, unsupported=UNSUPPORTED_IN_COMPLETIONS
    )
    check_common(context, request, body)
    job, texts = await _job(context, request, body)
    envelope = Envelope(f"cmpl-{record.request_id}", context.now(), context.model_name)
    writer = _Writer(context, body, job, texts)
    if body.stream:
        deltas = DeltaStream(run(context, record, job))
        return await open_stream(context, request, deltas, _events(writer, deltas, envelope, record))
    answer = await while_connected(request.receive, _collect(writer, run(context, record, job)))
    response = CompletionResponse(
        id=envelope.id,
        created=envelope.created,
        model=envelope.model,
        choices=answer,
        usage=usage(record),
    )
    return Response(msgspec.json.encode(response), media_type="application/json")


async def _job(context: ServerContext, request: Request, body: CompletionRequest) -> tuple[Job, list[str]]:
    """The job, and for `echo` the text of each prompt."""
    params = _params(context, body)
    prompts = split_prompts(body.prompt, context.settings.max_prompts)
    if len(prompts) * params.n > context.settings.max_sequences:
        raise InvalidRequest(
            f"prompts × n (or best_of) may be at most {context.settings.max_sequences}, "
            f"got {len(prompts)} × {params.n}",
            param="n",
        )
    tokenizer = context.engine.tokenizer
    tokens: list[list[int]] = []
    texts: list[str] = []
    for prompt in prompts:
        if isinstance(prompt, str):
            tokens.append(
                await encode(context, prompt, add_special_tokens=body.add_special_tokens is not False)
            )
        else:
            tokens.append(prompt)
        if body.echo:
            # Ids are decoded only after the engine has checked them: see _Writer.
            texts.append(prompt if isinstance(prompt, str) else "")
    del tokenizer
    limit = context.engine.max_model_len
    job = Job(
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
    )
    return job, texts


def _params(context: ServerContext, body: CompletionRequest) -> SamplingParams:
    n = or_default(body.n, 1)
    best_of = or_default(body.best_of, n)
    if best_of < n:
        raise InvalidRequest(f"best_of ({best_of}) must not be less than n ({n})", param="best_of")
    if best_of > n and body.stream:
        raise InvalidRequest("best_of above n cannot be streamed", param="best_of")
    ranks = best_of > n and n >= 1
    scores = body.prompt_logprobs
    if body.echo and (body.logprobs is not None or body.max_tokens == 0):
        scores = max(or_default(scores, 0), or_default(body.logprobs, 0))
    return sampling_params(
        body,
        context.engine.model_config.generation,
        n=best_of if ranks else n,
        max_tokens=or_default(body.max_tokens, DEFAULT_MAX_TOKENS),
        logprobs=0 if ranks and body.logprobs is None else body.logprobs,
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
