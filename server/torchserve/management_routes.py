"""The routes of TorchServe's management API, all under `/models`."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..json_body import check_origin
from ..openapi import describe
from .failures import TorchServeFailure, write_failure
from .management import Answer, Management

MODEL, VERSION = "/models/{model}", "/models/{model}/{version}"


class TorchServeStatus(msgspec.Struct):
    """What has been done."""

    status: str


class TorchServeModel(msgspec.Struct, rename="camel"):
    """A model and its file."""

    model_name: str
    model_url: str


class TorchServeModels(msgspec.Struct, rename="camel"):
    """A page of models."""

    models: list[TorchServeModel]
    next_page_token: str | msgspec.UnsetType = msgspec.UNSET


TYPES = (TorchServeModels, TorchServeStatus)
"""What the OpenAPI document defines."""


def management_routes(context: ServerContext) -> APIRouter:
    """Register, scale, describe, unregister, list, and set the default version."""
    router = APIRouter(tags=["TorchServe management"])
    context.paths.add_admin("(GET|POST|PUT|DELETE) /models(/.*)?")
    context.paths.add_error_writer("/models(/.*)?", write_failure)
    management = Management(context)

    @router.post("/models", **_describe("Register a model of the model store", TorchServeStatus, (409, 507)))
    async def register(request: Request) -> Response:
        check_origin(dict(request.headers.raw))  # it has no body that a browser would ask leave for
        return _json(await management.register(request))

    @router.get("/models", **_describe("The models", TorchServeModels))
    async def list_models(request: Request) -> Response:
        return _json(management.list_models(request))

    async def scale(request: Request) -> Response:
        return _json(await management.scale(request, *_named(request)))

    async def describe_model(request: Request) -> Response:
        return _json(management.describe(request, *_named(request)))

    async def unregister(request: Request) -> Response:
        return _json(await management.unregister(*_named(request)))

    for path, names in ((MODEL, ("model",)), (VERSION, ("model", "version"))):
        for method, function, summary, errors in (
            ("PUT", scale, "As many workers as min_worker", (507,)),
            ("GET", describe_model, "A model's workers and settings", ()),
            ("DELETE", unregister, "Unload a model, and know it no longer", ()),
        ):
            described = _describe(summary, TorchServeStatus, errors, names)
            if method == "GET":
                described["responses"][200]["content"] = {"application/json": {"schema": {"type": "array"}}}
            router.add_api_route(path, function, methods=[method], **described)

    @router.put(
        VERSION + "/set-default",
        **_describe("Have a version asked where none is named", TorchServeStatus, path=("model", "version")),
    )
    async def set_default(request: Request) -> Response:
        model, version = _named(request)
        return _json(management.set_default(model, version or ""))

    _ = (register, list_models, set_default)
    return router


def _named(request: Request) -> tuple[str, str | None]:
    found: dict[str, str] = request.path_params
    return found["model"], found.get("version")


def _json(answer: Answer) -> Response:
    status, message = answer
    return Response(msgspec.json.encode(message), status, media_type="application/json")


def _describe(
    summary: str, answer: type[msgspec.Struct], errors: tuple[int, ...] = (), path: tuple[str, ...] = ()
) -> dict[str, Any]:
    return describe(
        summary, answer=answer, path=path, errors=(400, 403, 404, 500, *errors), error=TorchServeFailure
    )
