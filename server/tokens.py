"""`/tokenize` and `/detokenize`, which several systems have: the body's keys say whose client it is."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from .context import RequestRecord, ServerContext
from .dialects import guarded
from .json_body import read_object
from .llama_cpp import tokens as llama_cpp
from .llama_cpp.failures import failure_response as llama_cpp_failure
from .openai import tokenize as openai
from .openapi import describe
from .tgi import tokens as tgi
from .tgi.failures import failure_response as tgi_failure

TYPES = openai.TYPES
"""What the OpenAPI document defines."""


def token_routes(context: ServerContext) -> APIRouter:
    """The two routes."""
    router = APIRouter(tags=["tokens"])

    @router.post(
        "/tokenize",
        **describe(
            "Text to tokens: `prompt` or `messages`; or `content` as llama.cpp has it, or TGI's `inputs`",
            answer=openai.TokenizeResponse,
            body=openai.TokenizeRequest,
        ),
    )
    async def tokenize(request: Request) -> Response:
        value = await read_object(context, request)
        record: RequestRecord = request.state.record
        if "inputs" in value:
            return await guarded(request, tgi.tokenize(context, record, value), tgi_failure)
        if "content" in value:
            return await guarded(request, llama_cpp.tokenize(context, record, value), llama_cpp_failure)
        return await openai.tokenize(context, record, value)

    @router.post(
        "/detokenize",
        **describe("Tokens to text", answer=openai.DetokenizeResponse, body=openai.DetokenizeRequest),
    )
    async def detokenize(request: Request) -> Response:
        value = await read_object(context, request)
        return await openai.detokenize(context, request.state.record, value)

    _ = (tokenize, detokenize)
    return router
