"""Is it up, is it ready, what is it, how is it doing."""

from __future__ import annotations

from typing import Literal

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from .. import __version__
from ..errors import Draining, Unavailable
from .context import ServerContext
from .metrics import CONTENT_TYPE
from .openapi import describe


class Status(msgspec.Struct):
    """What a probe answers with 200."""

    status: Literal["ok"] = "ok"


class Version(msgspec.Struct):
    """quire's version."""

    version: str


class Load(msgspec.Struct):
    """The requests that are being answered; probes and this question do not count."""

    server_load: int


TYPES = (Status, Version, Load)
"""What the OpenAPI document defines."""

_OK = msgspec.json.encode(Status())


def check_live(context: ServerContext) -> None:
    """Raises `Unavailable` unless every engine steps, or restarts."""
    if dead := [model.name for model in context.language_models if not model.engine.is_alive]:
        raise Unavailable(f"the engine does not respond: {', '.join(dead)}", code="engine_not_alive")


def check_ready(context: ServerContext) -> None:
    """Raises `Draining` or `Unavailable` unless requests are taken."""
    if context.draining:
        raise Draining("the server is shutting down", code="draining")
    waiting = [model.name for model in context.language_models if not model.engine.is_ready]
    if waiting:
        raise Unavailable(f"the engine is not ready: {', '.join(waiting)}", code="engine_not_ready")
    if missing := context.manager.not_ready():
        raise Unavailable(f"not all models are ready: {'; '.join(missing[:16])}", code="model_not_ready")


def health_routes(context: ServerContext) -> APIRouter:
    """Routes for probes and dashboards."""
    router = APIRouter(tags=["operation"])
    context.paths.add_admin("POST /reset_prefix_cache")

    @router.get("/health", **describe("Live: every engine steps, or restarts", answer=Status, errors=(503,)))
    @router.get("/ping", **describe("The same as /health", answer=Status, errors=(503,)))
    async def health() -> Response:
        check_live(context)
        return Response(_OK, media_type="application/json")

    @router.get("/ready", **describe("Ready: requests are taken", answer=Status, errors=(503,)))
    async def ready() -> Response:
        check_ready(context)
        return Response(_OK, media_type="application/json")

    @router.get("/version", **describe("quire's version", answer=Version))
    async def version() -> Response:
        return Response(msgspec.json.encode(Version(__version__)), media_type="application/json")

    @router.get("/load", **describe("How many requests are being answered", answer=Load))
    async def load() -> Response:
        others = Load(context.num_in_flight - 1)
        return Response(msgspec.json.encode(others), media_type="application/json")

    described = describe("Prometheus metrics", answer=Status)
    described["responses"][200]["content"] = {CONTENT_TYPE: {"schema": {"type": "string"}}}

    @router.get("/metrics", **described)
    async def metrics() -> Response:
        return Response(context.metrics.render(), media_type=CONTENT_TYPE)

    @router.post(
        "/reset_prefix_cache",
        **describe(
            "Forget cached prefixes; needs the admin key, if there are keys", answer=Status, errors=(403,)
        ),
    )
    async def reset_prefix_cache() -> Response:
        for model in context.language_models:
            await model.engine.reset_prefix_cache()
        return Response(_OK, media_type="application/json")

    _ = (health, ready, version, load, metrics, reset_prefix_cache)
    return router
