"""SageMaker's routes. Its `/ping` is one for all systems."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..errors import ErrorObject
from ..openapi import describe
from .invocations import invoke


def sagemaker_routes(context: ServerContext) -> APIRouter:
    """`/invocations`."""
    router = APIRouter(tags=["SageMaker"])

    @router.post(
        "/invocations", **describe_invocation("Ask the model, with a body of any kind that it takes")
    )
    async def invocations(request: Request) -> Response:
        return await invoke(context, request)

    _ = invocations
    return router


def describe_invocation(summary: str, *, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the decorator of a route of `invoke` needs."""
    described = describe(
        summary,
        answer=ErrorObject,
        path=path,
        errors=(400, 403, 404, 408, 413, 415, 422, 424, 429, 500, 503),
        streams=True,
    )
    kinds = ("application/json", "application/jsonlines", "text/csv", "application/x-npy")
    contents: dict[str, Any] = {kind: {"schema": {}} for kind in kinds}
    described["openapi_extra"]["requestBody"] = {"required": True, "content": contents}
    described["responses"][200]["content"] |= contents
    return described
