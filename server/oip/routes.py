"""The protocol's routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..hot import endpoint_of
from ..json_body import parse_message, read_any
from ..openapi import describe
from . import models, repository
from .failures import write_failure
from .generate import generate
from .infer import check_media_type, infer_route
from .protocol import (
    GenerateAnswer,
    GenerateBody,
    GenerateParameters,
    IndexBody,
    IndexEntry,
    InferAnswer,
    InferBody,
    InferFailure,
    InputTensor,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    OutputTensor,
    Ready,
    RepositoryBody,
    RepositoryDone,
    ServerMetadata,
    Statistics,
    TensorMetadata,
    WantedOutput,
)

TYPES = (
    GenerateAnswer,
    GenerateBody,
    GenerateParameters,
    IndexBody,
    IndexEntry,
    InferAnswer,
    InferBody,
    InferFailure,
    InputTensor,
    Live,
    ModelConfig,
    ModelMetadata,
    ModelReady,
    OutputTensor,
    Ready,
    RepositoryBody,
    RepositoryDone,
    ServerMetadata,
    Statistics,
    TensorMetadata,
    WantedOutput,
)
"""What the OpenAPI document defines."""

MODEL = "/v2/models/{model}"
VERSIONED = MODEL + "/versions/{version}"

Endpoint = Callable[[Request], Awaitable[Response]]
B = TypeVar("B", bound=msgspec.Struct)


def oip_routes(context: ServerContext) -> APIRouter:
    """Health, metadata, inference, generation, statistics and the model repository."""
    router = APIRouter(tags=["Open Inference Protocol"])
    context.paths.add_error_writer(r"/v2(?!/rerank$)(/.*)?", write_failure)  # that is not the protocol's
    context.paths.add_admin(r"POST /v2/repository/models/.*/(load|unload)")
    context.paths.probes |= {b"/v2/health/live", b"/v2/health/ready"}
    _add_health(router, context)
    _add_models(router, context)
    _add_inference(router, context)
    _add_repository(router, context)
    return router


def _describe(summary: str, answer: type[msgspec.Struct] | None, **more: Any) -> dict[str, Any]:
    return describe(summary, answer=answer, error=InferFailure, **more)


def _json(message: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(message), status, media_type="application/json")


def _add_health(router: APIRouter, context: ServerContext) -> None:
    @router.get("/v2", **_describe("The server and its extensions", ServerMetadata))
    async def metadata() -> Response:
        return _json(models.server_metadata())

    @router.get("/v2/health/live", **_describe("Live: the engine steps, or restarts", Live, errors=(503,)))
    async def live() -> Response:
        alive = models.is_live(context)
        return _json(Live(alive), 200 if alive else 503)

    @router.get("/v2/health/ready", **_describe("Ready: requests are taken", Ready, errors=(503,)))
    async def ready() -> Response:
        is_ready = models.is_ready(context)
        return _json(Ready(is_ready), 200 if is_ready else 503)

    _ = (metadata, live, ready)


def _add_models(router: APIRouter, context: ServerContext) -> None:
    def get(path: str, summary: str, answer: type[msgspec.Struct]) -> Callable[[Endpoint], Endpoint]:
        more = {"errors": (400, 404, 503)}
        one = router.get(MODEL + path, **_describe(summary, answer, path=("model",), **more))
        other = router.get(VERSIONED + path, **_describe(summary, answer, path=("model", "version"), **more))

        def add(function: Endpoint) -> Endpoint:
            return one(other(function))

        return add

    @router.get("/v2/models/stats", **_describe("What has been asked of all classic models", Statistics))
    async def all_stats() -> Response:
        return _json(models.statistics(context))

    @get("", "A model's inputs and outputs", ModelMetadata)
    async def metadata(request: Request) -> Response:
        return _json(await models.model_metadata(context, *_named(request)))

    @get("/ready", "Whether a model can be asked", ModelReady)
    async def ready(request: Request) -> Response:
        model, version = _named(request)
        is_ready = models.model_is_ready(context, model, version)
        return _json(ModelReady(model, is_ready), 200 if is_ready else 503)

    @get("/config", "A model's configuration, in Triton's words", ModelConfig)
    async def config(request: Request) -> Response:
        return _json(await models.model_config(context, *_named(request)))

    @get("/stats", "What has been asked of a model", Statistics)
    async def stats(request: Request) -> Response:
        return _json(models.statistics(context, *_named(request)))

    _ = (metadata, ready, config, stats, all_stats)


def _add_inference(router: APIRouter, context: ServerContext) -> None:
    route = infer_route()
    context.hot.add(route)
    endpoint = endpoint_of(context, route)
    for path, names in ((MODEL, ("model",)), (VERSIONED, ("model", "version"))):
        router.post(
            path + "/infer", **_describe("Ask a classic model", InferAnswer, body=InferBody, path=names)
        )(endpoint)

    def post(path: str, summary: str, *, streams: bool) -> Callable[[Endpoint], Endpoint]:
        def describe(names: tuple[str, ...]) -> dict[str, Any]:
            return _describe(summary, GenerateAnswer, body=GenerateBody, path=names, streams=streams)

        one = router.post(MODEL + path, **describe(("model",)))
        other = router.post(VERSIONED + path, **describe(("model", "version")))

        def add(function: Endpoint) -> Endpoint:
            return one(other(function))

        return add

    @post("/generate", "Continue a text", streams=False)
    async def whole(request: Request) -> Response:
        return await generate(context, request, *_named(request), streams=False)

    @post("/generate_stream", "Continue a text, part by part", streams=True)
    async def stream(request: Request) -> Response:
        return await generate(context, request, *_named(request), streams=True)

    _ = (whole, stream)


def _add_repository(router: APIRouter, context: ServerContext) -> None:
    @router.post("/v2/repository/index", **_describe("All models", None, body=IndexBody))
    async def index(request: Request) -> Response:
        body = await _optional(context, request, IndexBody)
        return _json(models.index(context, only_ready=body.ready))

    def post(path: str, summary: str) -> Any:
        return router.post(
            f"/v2/repository/models/{{model}}/{path}",
            **_describe(summary, RepositoryDone, body=RepositoryBody, path=("model",), errors=(403,)),
        )

    @post("load", "Load a model anew; needs the admin key, if there are keys")
    async def load(request: Request) -> Response:
        body = await _optional(context, request, RepositoryBody)
        await repository.load(context, _named(request)[0], body)
        return _json({})

    @post("unload", "Unload a model; needs the admin key, if there are keys")
    async def unload(request: Request) -> Response:
        body = await _optional(context, request, RepositoryBody)
        await repository.unload(context, _named(request)[0], body)
        return _json({})

    _ = (index, load, unload)


async def _optional(context: ServerContext, request: Request, message_type: type[B]) -> B:
    """A body that may be left out."""
    if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
        return message_type()
    # Triton's client names no media type. What changes the server takes no other than the protocol's, lest a
    # browser be made to send it.
    check_media_type(dict(request.headers.raw))

    def parse(body: bytes) -> B:
        return parse_message(body, message_type, context.settings, {})

    return await read_any(context, request, parse)


def _named(request: Request) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")
