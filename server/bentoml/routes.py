"""BentoML's routes: an API is a path of one segment, and so comes after all other routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from .. import classic
from ..context import ServerContext
from ..dialects import guarded
from ..errors import ErrorDetails, ErrorObject, error_response
from ..health import check_live, check_ready
from ..openapi import REF, describe
from .schema import service_schema


class BentoInputs(msgspec.Struct):
    """A value for each of the model's inputs, by name."""


class BentoFailure(msgspec.Struct):
    """The body of every answer that is not a success."""

    error: str


class BentoSchema(msgspec.Struct):
    """The service's APIs."""

    name: str
    type: str
    routes: list[dict[str, Any]]


TYPES = (BentoFailure, BentoInputs, BentoSchema)
"""What the OpenAPI document defines."""


def bentoml_routes(context: ServerContext) -> APIRouter:
    """Probes, the schema, and an API for each classic model."""
    router = APIRouter(tags=["BentoML"], route_class=_route_class(context))
    for path, check in (("/livez", check_live), ("/healthz", check_live), ("/readyz", check_ready)):
        context.paths.probes.add(path.encode())
        router.add_api_route(
            path,
            _probe(context, check),
            methods=["GET"],
            response_class=PlainTextResponse,
            **_described_probe(),
        )

    @router.get("/schema.json", **describe("The APIs", answer=BentoSchema, error=BentoFailure))
    async def schema() -> Response:
        return Response(msgspec.json.encode(service_schema(context)), media_type="application/json")

    described = describe(
        "The outputs of a classic model",
        body=BentoInputs,
        answer=BentoInputs,
        path=("model",),
        error=BentoFailure,
    )
    # An output alone, or an object of several: any JSON value.
    described["responses"][200]["content"] = {"application/json": {"schema": {}}}
    # Until a model is found, nothing says that it is BentoML's client who asks.
    for status in (401, 404, 431):
        content = described["responses"][status]["content"]["application/json"]
        ours = {"$ref": REF.format(name=ErrorObject.__name__)}
        content["schema"] = {"anyOf": [content["schema"], ours]}

    @router.post("/{model}", **described)
    async def api(request: Request) -> Response:
        from .call import call

        return await guarded(request, call(context, request, request.path_params["model"]), _failure_response)

    _ = (schema, api)
    return router


def _described_probe() -> dict[str, Any]:
    described = describe("A probe of BentoML's", answer=BentoFailure, errors=(503,))
    described["responses"][200]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return described


def write_failure(status: int, details: ErrorDetails) -> bytes:
    """An error in BentoML's form."""
    return msgspec.json.encode(BentoFailure(details.message))


def _failure_response(error: Exception) -> Response:
    return error_response(error, write_failure)


def _probe(
    context: ServerContext, check: Callable[[ServerContext], None]
) -> Callable[[], Awaitable[Response]]:
    async def probe() -> Response:
        check(context)
        return PlainTextResponse("\n")

    return probe


def _route_class(context: ServerContext) -> type[APIRoute]:
    class ModelRoute(APIRoute):
        """Matches `/{model}` for models that there are, so that other paths stay unknown."""

        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            match, child = super().matches(scope)
            if match is not Match.NONE and self.path == "/{model}":
                name = child.get("path_params", {}).get("model")
                if scope["method"] != "POST" or name not in classic.model_names(context):
                    return Match.NONE, {}
            return match, child

    return ModelRoute
