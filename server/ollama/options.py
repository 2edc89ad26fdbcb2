"""From Ollama's `options`, `format`, `think` and `keep_alive` to what the engine and templates know."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ...errors import InvalidRequest
from ...models.config import GenerationDefaults
from ..answers import find_format
from ..context import ServerContext
from ..json_body import convert
from ..openai.params import or_default
from ..openai.protocol import ChatCompletionRequest
from ..openai.structured import StructuredOutputs
from .protocol import OllamaFields

RENAMED = {
    "max_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "structured_outputs": "format",
}
"""Fields of OpenAI's requests that have other names in Ollama's."""

# Where neither the client nor the model's makers say anything, Ollama's own defaults hold.
TEMPERATURE, TOP_K, TOP_P = 0.8, 40, 0.9

# Options that quire does not have, with the values that ask for nothing special. Most are about how
# llama.cpp lays a model out in memory, which is decided when quire starts.
UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "embedding_only": (False,),
    "f16_kv": (),
    "logits_all": (False,),
    "low_vram": (False,),
    "main_gpu": (),
    "mirostat": (0,),
    "mirostat_eta": (),
    "mirostat_tau": (),
    "num_batch": (),
    "num_gpu": (-1,),
    "num_thread": (0,),
    "numa": (False,),
    "penalize_newline": (True,),
    "tfs_z": (1, 1.0),
    "typical_p": (1, 1.0),
    "use_mlock": (False,),
    "use_mmap": (),
    "vocab_only": (False,),
}

INT32_LIMIT = 1 << 31  # of numbers of tokens, in Ollama as here

_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)")


class Options(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The options that are honoured.

    `num_ctx` limits prompt and answer together. `num_keep`, how much of a prompt must survive when there
    is no room, is always fulfilled: all of it does. `repeat_penalty` counts all tokens so far, so that
    `repeat_last_n` can only be -1 (all of them) or 0 (no penalties).
    """

    num_ctx: int | None = None
    num_keep: int | None = None
    num_predict: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None


def read_options(context: ServerContext, given: dict[str, Any] | None) -> Options:
    """Checks what is Ollama's alone. Raises `InvalidRequest` naming the option."""
    options = convert(dict(given or {}), Options, UNSUPPORTED)
    limit = context.engine.max_model_len
    if options.num_ctx is not None and not 1 <= options.num_ctx <= limit:
        raise InvalidRequest(
            f"num_ctx must be between 1 and the server's context of {limit} tokens, got {options.num_ctx}",
            param="num_ctx",
        )
    for name in ("num_keep", "num_predict"):
        value: int | None = getattr(options, name)
        if value is not None and not (-2 if name == "num_predict" else -1) <= value < INT32_LIMIT:
            raise InvalidRequest(f"{name} is out of range: {value}", param=name)
    if options.repeat_last_n not in (None, -1, 0, options.num_ctx or limit) and _has_penalties(
        context, options
    ):
        raise InvalidRequest(
            f"repeat_last_n {options.repeat_last_n} is not supported: penalties count all tokens (-1) or "
            "none (0)",
            param="repeat_last_n",
        )
    return options


def _has_penalties(context: ServerContext, options: Options) -> bool:
    recommended = context.engine.model_config.generation.repetition_penalty
    return (
        or_default(options.repeat_penalty, recommended) not in (None, 1)
        or bool(options.presence_penalty)
        or bool(options.frequency_penalty)
    )


def max_tokens(context: ServerContext, options: Options, num_prompt_tokens: int) -> int:
    """How long the answer may become: at most `num_predict`, if positive, and as the context allows."""
    size = or_default(options.num_ctx, context.engine.max_model_len)
    room = size - num_prompt_tokens
    if room < 1:
        raise InvalidRequest(
            f"the prompt has {num_prompt_tokens} tokens, and the context of {size} tokens leaves no room "
            "for an answer",
            param="num_ctx",
            code="context_length_exceeded",
        )
    limit = or_default(options.num_predict, -1)
    return min(limit, room) if limit > 0 else room


def sampling_fields(body: OllamaFields, options: Options, defaults: GenerationDefaults) -> dict[str, Any]:
    """Fields of a `ChatCompletionRequest` that ask for the same."""
    penalised = options.repeat_last_n != 0
    return {
        "temperature": or_default(options.temperature, or_default(defaults.temperature, TEMPERATURE)),
        "top_k": or_default(options.top_k, or_default(defaults.top_k, TOP_K)),
        "top_p": or_default(options.top_p, or_default(defaults.top_p, TOP_P)),
        "min_p": options.min_p,
        "repetition_penalty": options.repeat_penalty if penalised else 1.0,
        "presence_penalty": options.presence_penalty if penalised else None,
        "frequency_penalty": options.frequency_penalty if penalised else None,
        "seed": None if options.seed == -1 else options.seed,
        "stop": options.stop,
        "structured_outputs": _structured(body.format),
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
    }


def _structured(form: dict[str, Any] | str | None) -> StructuredOutputs | None:
    if form is None or form == "":
        return None
    if form == "json":
        return StructuredOutputs(json_object=True)
    if isinstance(form, str):
        raise InvalidRequest(f"format must be 'json' or a JSON schema, got {form!r:.80}", param="format")
    return StructuredOutputs(json=form)


def check_keep_alive(keep_alive: float | str | None) -> None:
    """Raises unless the model is to stay loaded, for however long: it always does."""
    if keep_alive is None:
        return
    if isinstance(keep_alive, str) and _DURATION.fullmatch(keep_alive) is None:
        raise InvalidRequest(
            f"keep_alive must be seconds or a duration such as '5m', got {keep_alive!r:.80}",
            param="keep_alive",
        )
    if keep_alive == 0 or (isinstance(keep_alive, str) and not re.search(r"[1-9]", keep_alive)):
        raise InvalidRequest(
            "keep_alive: 0 is not supported: the model stays loaded as long as the server runs",
            param="keep_alive",
        )


def can_think(context: ServerContext) -> bool:
    """Whether the model marks its reasoning in a way that is known."""
    engine = context.engine
    found = find_format(context.settings, engine.chat_template.sources, engine.tokenizer)
    return found.reasoning is not None or (found.tools is not None and found.tools.splits_reasoning)


def set_thinking(context: ServerContext, body: ChatCompletionRequest, think: bool | str | None) -> None:
    """Puts `think` where the model's chat template looks for it. Raises `InvalidRequest` if it does not."""
    if think is None:
        return
    known = context.engine.chat_template.variables(with_tools=bool(body.tools))
    if isinstance(think, str):
        if think not in ("low", "medium", "high"):
            raise InvalidRequest(
                f"think must be true, false, 'low', 'medium' or 'high', got {think!r:.80}", param="think"
            )
        if "reasoning_effort" not in known:
            raise InvalidRequest(f"think: the model knows no levels, got {think!r}", param="think")
        body.reasoning_effort = think
        return
    switch = next((name for name in ("enable_thinking", "thinking") if name in known), None)
    if switch is not None:
        body.chat_template_kwargs = {switch: think}
    elif think and not can_think(context):
        raise InvalidRequest(f"{context.model_name!r} does not support thinking", param="think")
    elif not think and can_think(context):
        raise InvalidRequest(f"think: {context.model_name!r} cannot do without thinking", param="think")
