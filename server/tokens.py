"""`/tokenize` and `/detokenize`, which several systems have: the body's keys say whose client it is."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from .context import ServerContext
from .dialects import guarded
from .json_body import read_object
from .llama_cpp import tokens as llama_cpp
from .llama_cpp.failures import failure_response as llama_cpp_failure
from .llama_cpp.protocol import (
    LlamaDetokenizeRequest,
    LlamaFailure,
    LlamaText,
    LlamaTokenizeRequest,
    LlamaTokens,
)
from .openapi import describe
from .tgi import tokens as tgi
from .tgi.failures import failure_response as tgi_failure

TYPES = (LlamaDetokenizeRequest, LlamaText, LlamaTokenizeRequest, LlamaTokens)
"""What the OpenAPI document defines."""


def token_routes(context: ServerContext) -> APIRouter:
    """The two routes."""
    router = APIRouter(tags=["tokens"])

    @router.post(
        "/tokenize",
        **describe(
            "Text to tokens: `content` as llama.cpp has it, `inputs` as TGI has it",
            answer=LlamaTokens,
            body=LlamaTokenizeRequest,
            error=LlamaFailure,
        ),
    )
    async def tokenize(request: Request) -> Response:
        async def work() -> Response:
            value = await read_object(context, request)
            if "inputs" in value:
                return await guarded(request, tgi.tokenize(context, value), tgi_failure)
            return await llama_cpp.tokenize(context, value)

        return await guarded(request, work(), llama_cpp_failure)

    @router.post(
        "/detokenize",
        **describe("Tokens to text", answer=LlamaText, body=LlamaDetokenizeRequest, error=LlamaFailure),
    )
    async def detokenize(request: Request) -> Response:
        async def work() -> Response:
            return await llama_cpp.detokenize(context, await read_object(context, request))

        return await guarded(request, work(), llama_cpp_failure)

    _ = (tokenize, detokenize)
    return router
