"""TorchServe's routes for inference. Its `/ping` is one for all systems."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest, NotFound
from .. import classic
from ..context import ServerContext
from ..openapi import describe
from .failures import TorchServeFailure, write_failure

_VERSION = re.compile(r"([1-9][0-9]*)(\.0)*")


TYPES = (TorchServeFailure,)
"""What the OpenAPI document defines."""


def torchserve_routes(context: ServerContext) -> APIRouter:
    """Predictions; explanations are refused."""
    router = APIRouter(tags=["TorchServe"])
    context.paths.add_error_writer("/(predictions|explanations)/.*", write_failure)

    async def predict(request: Request) -> Response:
        found: dict[str, str] = request.path_params
        model, version = found["model"], read_version(found.get("version"))
        classic.plane(context, model)  # an absent model is no reason to load numpy
        from .predictions import predict as answer

        return await answer(context, request, model, version)

    async def explain() -> Response:
        raise InvalidRequest("explanations are not offered; ask at /predictions")

    for place, more in (("{model}", ()), ("{model}/{version}", ("version",))):
        # curl -T sends PUT, as in TorchServe's documentation.
        for method in ("POST", "PUT"):
            router.add_api_route(
                f"/predictions/{place}", predict, methods=[method], **_describe(("model", *more))
            )
        router.add_api_route(
            f"/explanations/{place}", explain, methods=["POST", "PUT"], include_in_schema=False
        )
    return router


def read_version(text: str | None) -> str | None:
    """quire's version for TorchServe's: "2" for "2.0".

    Raises:
        NotFound: It can be no version.
    """
    if text is None:
        return None
    found = _VERSION.fullmatch(text)
    if found is None:
        raise NotFound(
            f"there is no version {classic.shown(text)}: versions are whole numbers", param="version"
        )
    return found[1]


def _describe(path: tuple[str, ...]) -> dict[str, Any]:
    described = describe(
        "Outputs for a body of any kind: JSON, a form, CSV, .npy, or an example's bytes",
        answer=TorchServeFailure,
        path=path,
        errors=(400, 403, 404, 408, 413, 415, 429, 500, 503),
        error=TorchServeFailure,
    )
    content = {"schema": {"type": "string", "format": "binary"}}
    described["openapi_extra"]["requestBody"] = {
        "required": True,
        "content": {"application/octet-stream": content},
    }
    # Any JSON value may be a model's answer.
    described["responses"][200]["content"] = {"application/json": {"schema": {}}}
    return described
