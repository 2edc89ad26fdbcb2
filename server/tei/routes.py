"""The routes of text-embeddings-inference that its clients use; `/` is TGI's, too, and in its module."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ..context import ServerContext
from ..dialects import guarded
from ..openapi import describe
from ..tgi.failures import failure_response, write_error
from ..tgi.protocol import TgiFailure
from . import answers
from .protocol import TeiEmbedRequest, TeiPrediction, TeiPredictRequest, TeiSimilarityRequest

TYPES = (TeiEmbedRequest, TeiPredictRequest, TeiPrediction, TeiSimilarityRequest)
"""What the OpenAPI document defines."""


def tei_routes(context: ServerContext) -> APIRouter:
    """Embeddings, similarities and predictions."""
    router = APIRouter(tags=["TEI"])
    context.paths.add_error_writer("/(?:embed|similarity|predict)", write_error)

    @router.post("/embed", **_describe("Embed texts: a list of vectors", TeiEmbedRequest))
    async def embed(request: Request) -> Response:
        return await guarded(request, answers.answer_embed(context, request), failure_response)

    @router.post("/similarity", **_describe("Compare texts: a list of cosines", TeiSimilarityRequest))
    async def similarity(request: Request) -> Response:
        return await guarded(request, answers.answer_similarity(context, request), failure_response)

    @router.post("/predict", **_describe("Classify texts: lists of labels", TeiPredictRequest))
    async def predict(request: Request) -> Response:
        return await guarded(request, answers.answer_predict(context, request), failure_response)

    _ = (embed, similarity, predict)
    return router


def _describe(summary: str, body: type[msgspec.Struct]) -> dict[str, Any]:
    return describe(summary, answer=None, body=body, errors=(422, 424), error=TgiFailure)
