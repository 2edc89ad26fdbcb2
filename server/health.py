"""Is it up, is it ready, what is it, how is it doing."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from .. import __version__
from ..errors import Draining, Unavailable
from .context import ServerContext
from .metrics import CONTENT_TYPE


def health_routes(context: ServerContext) -> APIRouter:
    """Routes for probes and dashboards."""
    router = APIRouter(tags=["operation"])

    @router.get("/health", summary="Live: the engine steps, or is being restarted")
    @router.get("/ping", summary="The same as /health")
    async def health() -> Response:
        if not context.engine.is_alive:
            raise Unavailable("the engine does not respond", code="engine_not_alive")
        return JSONResponse({"status": "ok"})

    @router.get("/ready", summary="Ready: requests are taken")
    async def ready() -> Response:
        if context.draining:
            raise Draining("the server is shutting down", code="draining")
        if not context.engine.is_ready:
            raise Unavailable("the engine is not ready", code="engine_not_ready")
        return JSONResponse({"status": "ok"})

    @router.get("/version", summary="quire's version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(context.metrics.render(), media_type=CONTENT_TYPE)

    _ = (health, ready, version, metrics)
    return router
