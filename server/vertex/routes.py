"""Vertex AI's routes, whose paths it gives a container in its environment."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..health import Status, check_ready
from ..openapi import describe
from .predict import predict
from .protocol import VertexRequest, VertexResponse

TYPES = (VertexRequest, VertexResponse)
"""What the OpenAPI document defines."""


def vertex_routes(context: ServerContext) -> APIRouter:
    """The health route and the prediction route, where the settings name them."""
    router = APIRouter(tags=["Vertex AI"])
    health_route, predict_route = context.settings.vertex_health_route, context.settings.vertex_predict_route
    if health_route is not None:
        context.paths.probes.add(health_route.encode())

        @router.get(health_route, **describe("Ready: requests are taken", answer=Status, errors=(503,)))
        async def health() -> Response:
            check_ready(context)
            return Response(msgspec.json.encode(Status()), media_type="application/json")

        _ = health
    if predict_route is not None:

        @router.post(
            predict_route,
            **describe(
                "Predictions for instances; other bodies are answered as /invocations does",
                body=VertexRequest,
                answer=VertexResponse,
                errors=(403, 422, 424),
                streams=True,
            ),
        )
        async def ask(request: Request) -> Response:
            return await predict(context, request)

        _ = ask
    return router
