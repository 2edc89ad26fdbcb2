"""What completions and chat completions do alike."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request

from ...engine.outputs import CompletionOutput, RequestOutput, TokenLogprobs
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..gate import check_request_id
from .protocol import (
    CompletionTokensDetails,
    PromptLogprob,
    PromptLogprobs,
    PromptTokensDetails,
    SamplingFields,
    Usage,
)

MAX_LABEL_CHARACTERS = 256
MAX_TAGS = 16
MAX_TAG_CHARACTERS = 512
PRIORITY_LIMIT = 1 << 31
LOWEST_LOGPROB = -9999.0  # JSON has no infinity


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every message of one answer carries."""

    id: str
    created: int
    model: str


def new_envelope(context: ServerContext, id: str) -> Envelope:
    """An answer's envelope, dated now."""
    return Envelope(id, int(time.time()), context.model_name)


def finish_reason(part: CompletionOutput) -> Literal["stop", "length"] | None:
    """The engine's finish reason; the others have become errors before (see `generation.run`)."""
    reason = part.finish_reason
    return reason if reason == "stop" or reason == "length" else None


def check_common(request: Request, body: SamplingFields) -> None:
    """Checks the fields that are no sampling parameters, and notes the caller's labels."""
    record: RequestRecord = request.state.record
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options needs stream: true", param="stream_options")
    options = body.stream_options
    if options is not None and options.continuous_usage_stats and not options.include_usage:
        raise InvalidRequest(
            "continuous_usage_stats needs include_usage: true", param="stream_options.continuous_usage_stats"
        )
    if body.request_id is not None:
        record.request_id = check_request_id(body.request_id, "request_id")
    record.user = _label("user", body.user)
    _label("cache_salt", body.cache_salt, shortest=1)


def check_metadata(record: RequestRecord, tags: dict[str, str] | None, identifier: str | None) -> None:
    """Puts OpenAI's `metadata` and `safety_identifier` on the request's line in the log."""
    if tags is not None and len(tags) > MAX_TAGS:
        raise InvalidRequest(f"metadata takes at most {MAX_TAGS} pairs, got {len(tags)}", param="metadata")
    for key, value in (tags or {}).items():
        if max(len(key), len(value)) > MAX_TAG_CHARACTERS:
            raise InvalidRequest(
                f"metadata takes at most {MAX_TAG_CHARACTERS} characters in a key or value", param="metadata"
            )
    record.tags = dict(tags or {})
    if identifier is not None:
        record.tags["safety_identifier"] = _label("safety_identifier", identifier) or ""


def _label(name: str, value: str | None, shortest: int = 0) -> str | None:
    if value is not None and not shortest <= len(value) <= MAX_LABEL_CHARACTERS:
        raise InvalidRequest(
            f"{name} must have {shortest} to {MAX_LABEL_CHARACTERS} characters, got {len(value)}", param=name
        )
    return value


def priority(request: Request, body: SamplingFields) -> int:
    """The body's `priority`, or the header's; lower runs first."""
    value = body.priority
    if value is None:
        header = request.headers.get("x-vllm-priority", "0").strip()
        if not header.removeprefix("-").isdecimal() or len(header) > 11:
            raise InvalidRequest(f"X-Vllm-Priority must be an integer, got {header[:40]!r}", param="priority")
        value = int(header)
    if abs(value) >= PRIORITY_LIMIT:
        raise InvalidRequest(f"priority must be below 2³¹ in size, got {value}", param="priority")
    return value


def timeout(context: ServerContext, body: SamplingFields) -> float:
    """The seconds that the engine has for the request: the body's `timeout`, or the server's."""
    limit = context.settings.request_timeout
    if body.timeout is None:
        return limit
    if not 0 < body.timeout <= limit:
        raise InvalidRequest(
            f"timeout must be above 0 and at most {limit:g} seconds, got {body.timeout:g}", param="timeout"
        )
    return body.timeout


def usage(record: RequestRecord, num_prompt_tokens: int | None = None) -> Usage:
    """The tokens so far.

    Args:
        record: Counts tokens, those of a prompt when its first output comes.
        num_prompt_tokens: Those of all prompts, where some may have no output yet.
    """
    if num_prompt_tokens is None:
        num_prompt_tokens = record.num_prompt_tokens
    return Usage(
        prompt_tokens=num_prompt_tokens,
        completion_tokens=record.num_generation_tokens,
        total_tokens=num_prompt_tokens + record.num_generation_tokens,
        prompt_tokens_details=PromptTokensDetails(record.num_cached_tokens),
        completion_tokens_details=CompletionTokensDetails(record.num_reasoning_tokens),
    )


def continuous_usage(body: SamplingFields) -> bool:
    """Whether every chunk of a stream shall have the usage so far."""
    return body.stream_options is not None and body.stream_options.continuous_usage_stats is True


def answer_bytes(output: RequestOutput) -> int:
    """About how long an output becomes as JSON: texts are short, log-probabilities are not."""
    entries = sum(map(len, filter(None, output.prompt_logprobs or ())))
    for part in output.outputs:
        entries += sum(map(len, part.logprobs or ()))
    return 50 * entries + sum(len(part.text) for part in output.outputs)


def prompt_logprobs(entries: list[TokenLogprobs | None], num_top: int) -> PromptLogprobs:
    """vLLM's `prompt_logprobs`: per token of the prompt, the token and the `num_top` most likely ones."""
    return [
        None
        if entry is None
        else {
            str(token): PromptLogprob(max(item.logprob, LOWEST_LOGPROB), item.rank, item.decoded_token)
            for place, (token, item) in enumerate(entry.items())
            if place == 0 or item.rank <= num_top
        }
        for entry in entries
    ]
