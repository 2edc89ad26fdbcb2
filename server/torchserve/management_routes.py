"""The routes of TorchServe's management API, all under `/models`, on the admin port."""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..json_body import check_origin
from .failures import write_failure
from .management import Answer, Management

MODEL, VERSION = "/models/{model}", "/models/{model}/{version}"


def add_management_routes(context: ServerContext) -> None:
    """Register, scale, describe, unregister, list, and set the default version, on the admin port.

    Where SageMaker has the same paths, there are none of these.
    """
    if context.settings.sagemaker_multi_model:
        return
    router = APIRouter()
    context.paths.add_admin("(GET|POST|PUT|DELETE) /models(/.*)?")
    context.paths.add_error_writer("/models(/.*)?", write_failure)
    management = Management(context)

    @router.post("/models")
    async def register(request: Request) -> Response:
        check_origin(dict(request.headers.raw))  # it has no body that a browser would ask leave for
        return _json(await management.register(request))

    @router.get("/models")
    async def list_models(request: Request) -> Response:
        return _json(management.list_models(request))

    @router.put(MODEL)
    @router.put(VERSION)
    async def scale(request: Request) -> Response:
        return _json(await management.scale(request, *_named(request)))

    @router.get(MODEL)
    @router.get(VERSION)
    async def describe(request: Request) -> Response:
        return _json(management.describe(request, *_named(request)))

    @router.delete(MODEL)
    @router.delete(VERSION)
    async def unregister(request: Request) -> Response:
        return _json(await management.unregister(*_named(request)))

    @router.put(VERSION + "/set-default")
    async def set_default(request: Request) -> Response:
        model, version = _named(request)
        return _json(management.set_default(model, version or ""))

    _ = (register, list_models, scale, describe, unregister, set_default)
    context.admin.add(router)


def _named(request: Request) -> tuple[str, str | None]:
    found: dict[str, str] = request.path_params
    return found["model"], found.get("version")


def _json(answer: Answer) -> Response:
    status, message = answer
    return Response(msgspec.json.encode(message), status, media_type="application/json")
