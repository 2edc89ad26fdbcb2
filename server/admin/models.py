"""`/admin/models`: all models, and loading and unloading them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...engine.managed_model import ModelStatus
from ...errors import InvalidRequest, NotFound
from ..context import ServerContext
from ..json_body import read_message
from ..openapi import describe

ADMIN = r"(GET|HEAD|POST) /admin/models(/.*)?"


class AdminModel(msgspec.Struct, kw_only=True):
    """A version of a model.

    `state` is "unavailable" if it is loaded and yet not ready, or could not be loaded; `reason` says why it
    is not ready. While `wanted`, the server is ready only when the model is. `pinned` models never make room
    for others. `memory_bytes` is what its processes take, about.
    """

    name: str
    version: str
    kind: Literal["llm", "classic"]
    state: Literal["unloaded", "loading", "ready", "unavailable"]
    reason: str
    load: Literal["start", "on_demand", "manual"]
    pinned: bool
    wanted: bool
    memory_bytes: int


class AdminModels(msgspec.Struct, kw_only=True):
    """Models, each version for itself; those of one name from the lowest version to the highest."""

    models: list[AdminModel]
    memory_budget: int | None


class AdminModelAction(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`version` is the one that is meant; all by default."""

    version: str | int | None = None


TYPES = (AdminModel, AdminModelAction, AdminModels)
"""What the OpenAPI document defines."""


def admin_model_routes(context: ServerContext) -> APIRouter:
    """List, show, load and unload."""
    router = APIRouter(prefix="/admin/models", tags=["admin"])
    context.paths.add_admin(ADMIN)
    path = ("model",)

    @router.get("", **describe("All models; needs the admin key, if there are keys", answer=AdminModels))
    async def list_all() -> Response:
        return _answer(context, context.manager.index())

    # A model's name may hold slashes.
    @router.get("/{model:path}", **describe("One model", answer=AdminModels, path=path, errors=(403, 404)))
    async def show(request: Request) -> Response:
        return _one(context, request.path_params["model"])

    @router.post(
        "/{model:path}/load",
        **describe(
            "Load a model, or load it anew; what was loaded serves until the new one is ready",
            answer=AdminModels,
            body=AdminModelAction,
            path=path,
            errors=(403,),
        ),
    )
    async def load(request: Request) -> Response:
        name, version = await _target(context, request)
        await context.manager.load(name, version)
        return _one(context, name)

    @router.post(
        "/{model:path}/unload",
        **describe(
            "Unload a model, once the requests that were let in are answered",
            answer=AdminModels,
            body=AdminModelAction,
            path=path,
            errors=(403,),
        ),
    )
    async def unload(request: Request) -> Response:
        name, version = await _target(context, request)
        await context.manager.unload(name, version)
        return _one(context, name)

    _ = (list_all, show, load, unload)
    return router


async def _target(context: ServerContext, request: Request) -> tuple[str, str | None]:
    """The model of the path and the version of the body, which may be left out."""
    body = AdminModelAction()
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        body = await read_message(context, request, AdminModelAction, unsupported={})
    version = None if body.version is None else str(body.version)
    if version is not None and not (version.isascii() and version.isdecimal()):
        raise InvalidRequest(f"version must be a whole number, got {version[:100]!r}", param="version")
    return request.path_params["model"], version


def _one(context: ServerContext, name: str) -> Response:
    found = context.manager.index(name)
    if not found:
        raise NotFound(f"there is no model {name[:200]!r}", param="model")
    return _answer(context, found)


def _answer(context: ServerContext, found: list[ModelStatus]) -> Response:
    answer = AdminModels(
        models=[AdminModel(**asdict(status)) for status in found],
        memory_budget=context.manager.memory_budget,
    )
    return Response(msgspec.json.encode(answer), media_type="application/json")
