"""Bodies for language models on routes that take those of several systems: the keys say whose it is.

Clouds have one route for every model. What comes there is OpenAI's or TGI's, and is answered by their own
handlers, streams included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from .context import RequestRecord, ServerContext
from .dialects import guarded
from .openai.chat import create_chat_completion
from .openai.completions import create_completion
from .openai.embeddings import create_embeddings
from .tgi.failures import failure_response
from .tgi.generate import generate

Handler = Callable[[ServerContext, Request], Awaitable[Response]]


async def _generate(context: ServerContext, request: Request) -> Response:
    # In a list, as TGI answers where the body says whether to stream.
    return await guarded(request, generate(context, request, streams=None, in_list=True), failure_response)


HANDLERS: Mapping[str, Handler] = {
    "messages": create_chat_completion,
    "prompt": create_completion,
    "inputs": _generate,
    "input": create_embeddings,
}
"""Which handler a body's key asks for."""

UNMISTAKABLE = ("messages", "prompt")
"""Keys that no request to a classic model has."""


def handler_of(context: ServerContext, value: object, *, has_classic: bool) -> Handler | None:
    """Who answers a body; None if it is for a classic model.

    Args:
        context: The server.
        value: The body's JSON.
        has_classic: Whether a classic model may be meant, which may have inputs of any name.
    """
    if not isinstance(value, dict) or not len(context.language_models):
        return None
    is_named = value.get("model") in context.language_models
    keys = HANDLERS if is_named or not has_classic else UNMISTAKABLE
    return next((HANDLERS[key] for key in keys if key in value), None)


def replayed(request: Request, body: bytes) -> Request:
    """A request whose body, which has been read, is given once more to whoever reads it."""
    return Request(request.scope, _receive_first(body, request.receive))


def part_of(request: Request, place: int, body: bytes) -> tuple[Request, RequestRecord]:
    """One of several requests that came in one, with a record of its own; whether the client stays is not
    its concern."""
    whole: RequestRecord = request.state.record
    record = replace(
        whole,
        request_id=f"{whole.request_id}-{place}",
        internal_id=f"{whole.internal_id}-{place}",  # the engine's names are made of it
        num_prompt_tokens=0,
        num_cached_tokens=0,
        num_generation_tokens=0,
        num_reasoning_tokens=0,
    )
    scope = {**request.scope, "state": {**request.scope["state"], "record": record}}
    return Request(scope, _receive_first(body, _never)), record


def add_part(whole: RequestRecord, part: RequestRecord) -> None:
    """Books what a part of a request has cost."""
    whole.num_prompt_tokens += part.num_prompt_tokens
    whole.num_cached_tokens += part.num_cached_tokens
    whole.num_generation_tokens += part.num_generation_tokens
    whole.num_reasoning_tokens += part.num_reasoning_tokens
    whole.error = whole.error or part.error
    whole.model = part.model


def _receive_first(body: bytes, then: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else await then()

    return receive


async def _never() -> Message:
    return await asyncio.get_running_loop().create_future()
