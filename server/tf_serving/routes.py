"""TensorFlow Serving's routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest
from ..context import ServerContext
from ..hot import endpoint_of
from ..openapi import describe
from .predict import verb_route
from .protocol import (
    TfExamplesRequest,
    TfFailure,
    TfMetadata,
    TfModelStatus,
    TfPredictRequest,
    TfPredictResponse,
    TfResults,
    write_failure,
)
from .versions import Target, metadata, status

TYPES = (
    TfExamplesRequest,
    TfFailure,
    TfMetadata,
    TfModelStatus,
    TfPredictRequest,
    TfPredictResponse,
    TfResults,
)
"""What the OpenAPI document defines."""

VERSION, LABEL = "/v1/models/{model}/versions/{version}", "/v1/models/{model}/labels/{label}"
PLACES = (("/v1/models/{model}", ()), (VERSION, ("version",)), (LABEL, ("label",)))
VERBS = {
    "predict": ("Outputs for inputs", TfPredictRequest, TfPredictResponse),
    "classify": ("Labels and scores for examples", TfExamplesRequest, TfResults),
    "regress": ("A number for each example", TfExamplesRequest, TfResults),
}


def tf_serving_routes(context: ServerContext) -> APIRouter:
    """Predict, classify and regress; versions; metadata. A model's status is with OpenAI's `/v1/models`."""
    router = APIRouter(tags=["TensorFlow Serving"])
    one = "/v1/models/[^/]+"
    for pattern in (rf"{one}(/(versions|labels)/[^/]+)?(:\w+|/metadata)", f"{one}/(versions|labels)/[^/]+"):
        context.paths.add_error_writer(pattern, write_failure)
    endpoints: dict[str, Callable[[Request], Awaitable[Response]]] = {}
    for verb in VERBS:
        route = verb_route(verb)
        context.hot.add(route)
        endpoints[verb] = endpoint_of(context, route)
    for place, more in PLACES:
        for verb, (summary, body, answer) in VERBS.items():
            router.add_api_route(
                f"{place}:{verb}",
                endpoints[verb],
                methods=["POST"],
                **describe(
                    summary, body=body, answer=answer, path=("model", *more), errors=(403,), error=TfFailure
                ),
            )
        router.add_api_route(f"{place}:explain", _explain, methods=["POST"], include_in_schema=False)
        router.add_api_route(
            f"{place}/metadata",
            _telling(context, metadata),
            methods=["GET"],
            **describe(
                "Inputs and outputs",
                answer=TfMetadata,
                path=("model", *more),
                errors=(400, 404, 503),
                error=TfFailure,
            ),
        )
        if more:
            router.add_api_route(
                place,
                _telling(context, _status),
                methods=["GET"],
                **describe(
                    "The state of a version",
                    answer=TfModelStatus,
                    path=("model", *more),
                    errors=(400, 404),
                    error=TfFailure,
                ),
            )
    return router


def _telling(
    context: ServerContext, tell: Callable[[ServerContext, Target], Awaitable[msgspec.Struct]]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        told = await tell(context, Target.of(request))
        return Response(msgspec.json.encode(told), media_type="application/json")

    return answer


async def _explain(request: Request) -> Response:
    raise InvalidRequest("explanations are not offered; ask with :predict, :classify or :regress")


async def _status(context: ServerContext, target: Target) -> msgspec.Struct:
    return status(context, target)
