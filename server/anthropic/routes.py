"""Anthropic's routes."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..openapi import describe
from . import messages
from .protocol import AnthropicError, CountTokensRequest, MessageAnswer, MessagesRequest, TokenCount

TYPES = (AnthropicError, CountTokensRequest, MessageAnswer, MessagesRequest, TokenCount)
"""What the OpenAPI document defines."""

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"


def anthropic_routes(context: ServerContext) -> APIRouter:
    """Messages, and the count of their tokens."""
    router = APIRouter(tags=["Anthropic"])
    for path in (MESSAGES, COUNT_TOKENS):
        context.paths.add_error_writer(re.escape(path), messages.write_error)

    @router.post(
        MESSAGES,
        **describe(
            "Answer a conversation",
            body=MessagesRequest,
            answer=MessageAnswer,
            error=AnthropicError,
            streams=True,
        ),
    )
    async def create_message(request: Request) -> Response:
        return await messages.create_message(context, request)

    @router.post(
        COUNT_TOKENS,
        **describe("Count tokens", body=CountTokensRequest, answer=TokenCount, error=AnthropicError),
    )
    async def count_tokens(request: Request) -> Response:
        return await messages.count_tokens(context, request)

    _ = (create_message, count_tokens)
    return router
