"""`/tokenize` and `/detokenize`, in vLLM's form: what the model sees of a text or of a conversation."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.responses import Response

from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..json_body import convert
from .chat_prompt import render_prompt
from .message_protocol import Message, Tool
from .protocol import ChatCompletionRequest
from .tools import read_tools

UNSUPPORTED: dict[str, tuple[object, ...]] = {"chat_template": ()}
ONLY_WITH_MESSAGES = ("add_generation_prompt", "chat_template_kwargs", "continue_final_message", "tools")


class TokenizeRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Either `prompt` or `messages`.

    `add_special_tokens` is true by default for a prompt and false for messages, whose template
    writes the special tokens itself: as in completions and chat completions.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None


class TokenizeResponse(msgspec.Struct, kw_only=True):
    """`token_strs` are the vocabulary's own spellings of the tokens, if asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Token ids."""

    model: str | None = None
    tokens: list[int]


class DetokenizeResponse(msgspec.Struct, kw_only=True):
    """The text of the tokens, special ones included, under the names of two dialects."""

    prompt: str
    content: str


TYPES = (DetokenizeRequest, DetokenizeResponse, TokenizeRequest, TokenizeResponse)
"""What the OpenAPI document defines."""


async def tokenize(context: ServerContext, record: RequestRecord, value: dict[str, object]) -> Response:
    """The tokens of a prompt, or of a conversation."""
    body = convert(value, TokenizeRequest, UNSUPPORTED)
    context = await context.serving(body.model, record)
    tokens = await _tokens(context, body)

    def write() -> bytes:
        answer = TokenizeResponse(
            count=len(tokens), max_model_len=context.engine.max_model_len, tokens=tokens
        )
        if body.return_token_strs:
            answer.token_strs = [context.engine.tokenizer.token_name(token) for token in tokens]
        return msgspec.json.encode(answer)

    return Response(await context.offload(8 * len(tokens), write), media_type="application/json")


async def detokenize(context: ServerContext, record: RequestRecord, value: dict[str, object]) -> Response:
    """The text of tokens."""
    body = convert(value, DetokenizeRequest, {})
    context = await context.serving(body.model, record)
    vocab_size = context.engine.model_config.vocab_size

    def write() -> bytes:
        wrong = next((token for token in body.tokens if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise InvalidRequest(
                f"tokens holds {wrong}, no token id: the vocabulary has {vocab_size}", param="tokens"
            )
        text = context.engine.tokenizer.decode(body.tokens, skip_special_tokens=False)
        return msgspec.json.encode(DetokenizeResponse(prompt=text, content=text))

    return Response(await context.offload(8 * len(body.tokens), write), media_type="application/json")


async def _tokens(context: ServerContext, body: TokenizeRequest) -> list[int]:
    """The tokens; a prompt may be longer than the context, whose length the answer tells."""
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give either prompt or messages", param="prompt", code="missing_parameter")
    add_special_tokens = body.add_special_tokens
    if body.messages is None:
        for name in ONLY_WITH_MESSAGES:
            if getattr(body, name) is not None:
                raise InvalidRequest(f"{name} needs messages", param=name)
        text = body.prompt or ""
        add_special_tokens = add_special_tokens is not False
    else:
        chat = ChatCompletionRequest(
            messages=body.messages,
            add_generation_prompt=body.add_generation_prompt,
            continue_final_message=body.continue_final_message,
            chat_template_kwargs=body.chat_template_kwargs,
        )
        chat.tools = body.tools
        text = (await render_prompt(context, chat, read_tools(chat))).text
        add_special_tokens = add_special_tokens is True
    tokenizer = context.engine.tokenizer
    return await context.offload(
        len(text), lambda: tokenizer.encode(text, add_special_tokens=add_special_tokens)
    )
