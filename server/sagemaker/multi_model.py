"""SageMaker's multi-model endpoints: the platform loads and unloads models as they are asked for.

It does so on the port where it asks them, and without a key of its own: these routes are there only where
the environment or the settings say that the server is such an endpoint.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest, NotFound, QuireError
from ..context import ServerContext
from ..errors import Conflict
from ..json_body import read_message
from ..model_store import answered_as_507, find_in_store, spec_of
from ..openapi import describe
from .invocations import invoke
from .routes import describe_invocation

MAX_NAME_CHARACTERS = 256
PAGE = 1000


class SageMakerModel(msgspec.Struct, rename="camel"):
    """A model that is loaded, and the file that it was loaded from."""

    model_name: str
    model_url: str


class SageMakerModels(msgspec.Struct, rename="camel", omit_defaults=True):
    """A page of models."""

    models: list[SageMakerModel]
    next_page_token: str | None = None


class SageMakerLoad(msgspec.Struct, forbid_unknown_fields=True):
    """The model to load: a file or folder of the model store, and its name from now on."""

    model_name: str
    url: str


TYPES = (SageMakerLoad, SageMakerModel, SageMakerModels)
"""What the OpenAPI document defines."""


def multi_model_routes(context: ServerContext) -> APIRouter:
    """`/models`, where the settings say that SageMaker uses it."""
    router = APIRouter(tags=["SageMaker multi-model"])
    if not context.settings.sagemaker_multi_model:
        return router
    context.paths.add_admin(r"(POST|GET) /models|(GET|DELETE) /models/[^/]+")
    urls: dict[str, str] = {}

    @router.post(
        "/models",
        **describe(
            "Load a model of the model store",
            answer=SageMakerModel,
            body=SageMakerLoad,
            errors=(403, 409, 507),
        ),
    )
    async def load(request: Request) -> Response:
        asked = await read_message(context, request, SageMakerLoad, unsupported={})
        await _load(context, asked)
        urls[asked.model_name] = asked.url
        return _json(SageMakerModel(asked.model_name, asked.url))

    @router.get("/models", **describe("The loaded models", answer=SageMakerModels, errors=(400, 403)))
    async def list_models(request: Request) -> Response:
        names = sorted({status.name for status in context.manager.index()})
        start = _page_token(request)
        page = [SageMakerModel(name, urls.get(name, name)) for name in names[start : start + PAGE]]
        more = str(start + PAGE) if start + PAGE < len(names) else None
        return _json(SageMakerModels(page, more))

    @router.get(
        "/models/{model}",
        **describe("A model that is loaded", answer=SageMakerModel, path=("model",), errors=(403, 404)),
    )
    async def get_model(request: Request) -> Response:
        name = _known(context, request)
        return _json(SageMakerModel(name, urls.get(name, name)))

    @router.delete(
        "/models/{model}",
        **describe("Unload a model", answer=SageMakerModel, path=("model",), errors=(403, 404, 500)),
    )
    async def unload(request: Request) -> Response:
        name = _known(context, request)
        await context.manager.forget(name)
        return _json(SageMakerModel(name, urls.pop(name, name)))

    @router.post("/models/{model}/invoke", **describe_invocation("Ask a model", path=("model",)))
    async def invoke_model(request: Request) -> Response:
        return await invoke(context, request, _known(context, request))

    _ = (load, list_models, get_model, unload, invoke_model)
    return router


async def _load(context: ServerContext, asked: SageMakerLoad) -> None:
    name, manager = asked.model_name, context.manager
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or "/" in name or not name.isprintable():
        raise InvalidRequest("model_name must be a name without slashes", param="model_name")
    if manager.knows(name):
        raise Conflict(f"the model {name} is loaded already", param="model_name")
    path = find_in_store(context.settings, asked.url)
    manager.declare(spec_of(path, name))
    try:
        with answered_as_507():
            await manager.load(name)
    except QuireError:
        await manager.forget(name)
        raise


def _known(context: ServerContext, request: Request) -> str:
    name: str = request.path_params["model"]
    if not context.manager.knows(name):
        raise NotFound(f"there is no model {name[:200]!r}", param="model")
    return name


def _page_token(request: Request) -> int:
    token = request.query_params.get("next_page_token", "0")
    if not (token.isascii() and token.isdecimal() and len(token) < 10):
        raise InvalidRequest(f"next_page_token is {token[:40]!r}, which is none", param="next_page_token")
    return int(token)


def _json(message: Any) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
