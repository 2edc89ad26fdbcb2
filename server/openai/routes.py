"""OpenAI's routes."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..openapi import describe
from . import chat, completions, models
from .protocol import (
    ChatCompletion,
    ChatCompletionRequest,
    CompletionRequest,
    CompletionResponse,
    Model,
    ModelList,
)

TYPES = (
    ChatCompletion,
    ChatCompletionRequest,
    CompletionRequest,
    CompletionResponse,
    Model,
    ModelList,
)
"""What the OpenAPI document defines."""


def openai_routes(context: ServerContext) -> APIRouter:
    """Models, completions and chat completions."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.get("/models", **describe("List the models", answer=ModelList))
    async def list_models() -> Response:
        return models.list_models(context)

    # A model's name may hold slashes.
    @router.get(
        "/models/{model:path}", **describe("Describe a model", answer=Model, path=("model",), errors=(404,))
    )
    async def get_model(request: Request) -> Response:
        return models.get_model(context, request.path_params["model"])

    @router.post(
        "/completions",
        **describe("Continue a text", body=CompletionRequest, answer=CompletionResponse, streams=True),
    )
    async def create_completion(request: Request) -> Response:
        return await completions.create_completion(context, request)

    @router.post(
        "/chat/completions",
        **describe("Answer a chat", body=ChatCompletionRequest, answer=ChatCompletion, streams=True),
    )
    async def create_chat_completion(request: Request) -> Response:
        return await chat.create_chat_completion(context, request)

    _ = (list_models, get_model, create_completion, create_chat_completion)
    return router
