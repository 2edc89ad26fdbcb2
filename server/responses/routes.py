"""The routes of the responses API."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..openapi import describe
from .protocol import CreateResponse, DeletedResponse, ResponseObject
from .service import Responses

TYPES = (CreateResponse, DeletedResponse, ResponseObject)
"""What the OpenAPI document defines."""


def responses_routes(context: ServerContext) -> APIRouter:
    """Create, retrieve, cancel and delete."""
    router = APIRouter(prefix="/v1/responses", tags=["OpenAI"])
    responses = Responses(context)
    path, errors = ("response_id",), (400, 404)

    @router.post("", **describe("Make a response", body=CreateResponse, answer=ResponseObject, streams=True))
    async def create(request: Request) -> Response:
        return await responses.create(request)

    @router.get("/{response_id}", **describe("A response", answer=ResponseObject, path=path, errors=errors))
    async def retrieve(request: Request) -> Response:
        return await responses.retrieve(request)

    @router.delete(
        "/{response_id}", **describe("Forget a response", answer=DeletedResponse, path=path, errors=(404,))
    )
    async def delete(request: Request) -> Response:
        return await responses.delete(request)

    @router.post(
        "/{response_id}/cancel",
        **describe("End a background response", answer=ResponseObject, path=path, errors=errors),
    )
    async def cancel(request: Request) -> Response:
        return await responses.cancel(request)

    _ = (create, retrieve, delete, cancel)
    return router
