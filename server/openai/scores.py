"""`/score` and `/rerank`, in vLLM's form: how well texts fit.

A cross-encoder reads both texts together and says so; of other models, it is the cosine of the embeddings.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...engine.embeddings import pair_up
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..json_body import read_message
from ..openapi import describe
from ..pooling import score
from .completions import split_prompts
from .embeddings import PoolingFields, PoolingUsage, pooling_options, pooling_usage


class ScoringFields(PoolingFields, kw_only=True):
    """`use_activation: false` gives a cross-encoder's numbers as they are."""

    use_activation: bool | None = None


class ScoreRequest(ScoringFields, kw_only=True):
    """One text is compared with each of `text_2`; several, each with its counterpart."""

    text_1: str | list[str]
    text_2: str | list[str]


class Score(msgspec.Struct, kw_only=True):
    """How well the texts of a pair fit."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreList(msgspec.Struct, kw_only=True):
    """The scores, in the order of `text_2`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Score]
    usage: PoolingUsage


class Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text."""

    text: str


class RerankRequest(ScoringFields, kw_only=True):
    """`top_n` is how many documents to give back; 0 or none for all."""

    query: str
    documents: list[str | Document]
    top_n: int | None = None


class RankedDocument(msgspec.Struct, kw_only=True):
    """A document, and its place in the request."""

    index: int
    document: Document
    relevance_score: float


class Ranking(msgspec.Struct, kw_only=True):
    """The documents that fit the query, best first; those that are equal in their order."""

    id: str
    model: str
    usage: PoolingUsage
    results: list[RankedDocument]


TYPES = (Ranking, RerankRequest, ScoreList, ScoreRequest)
"""What the OpenAPI document defines."""


def score_routes(context: ServerContext) -> APIRouter:
    """The routes, each also under the paths that other servers have for it."""
    router = APIRouter(tags=["scores"])

    @router.post("/score", **describe("Compare texts", body=ScoreRequest, answer=ScoreList))
    @router.post("/v1/score", **describe("The same as /score", body=ScoreRequest, answer=ScoreList))
    async def score_texts(request: Request) -> Response:
        body = await read_message(context, request, ScoreRequest, unsupported={})
        return _json(await _score(context, request, body))

    @router.post("/rerank", **describe("Rank documents", body=RerankRequest, answer=Ranking))
    @router.post("/v1/rerank", **describe("The same as /rerank", body=RerankRequest, answer=Ranking))
    @router.post("/v2/rerank", **describe("The same as /rerank", body=RerankRequest, answer=Ranking))
    async def rerank_texts(request: Request) -> Response:
        body = await read_message(context, request, RerankRequest, unsupported={})
        return _json(await rerank(context, request, body))

    _ = (score_texts, rerank_texts)
    return router


async def _score(context: ServerContext, request: Request, body: ScoreRequest) -> ScoreList:
    record: RequestRecord = request.state.record
    context = await context.serving(body.model, record)
    left, right = ([texts] if isinstance(texts, str) else texts for texts in (body.text_1, body.text_2))
    pairs = pair_up(len(left), len(right), ("text_1", "text_2"))
    scores = await _compare(context, request, body, [*left, *right], [(i, len(left) + j) for i, j in pairs])
    return ScoreList(
        id=f"score-{record.request_id}",
        created=int(time.time()),
        model=context.model_name,
        data=[Score(index=index, score=score) for index, score in enumerate(scores)],
        usage=pooling_usage(record),
    )


async def rerank(context: ServerContext, request: Request, body: RerankRequest) -> Ranking:
    """The documents of a request, ranked."""
    record: RequestRecord = request.state.record
    context = await context.serving(body.model, record)
    texts = [each if isinstance(each, str) else each.text for each in body.documents]
    if not texts:
        raise InvalidRequest("documents must not be empty", param="documents")
    if body.top_n is not None and body.top_n < 0:
        raise InvalidRequest(f"top_n must not be negative, got {body.top_n}", param="top_n")
    pairs = [(0, 1 + index) for index in range(len(texts))]
    scores = await _compare(context, request, body, [body.query, *texts], pairs)
    best = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n or None]
    return Ranking(
        id=f"rerank-{record.request_id}",
        model=context.model_name,
        usage=pooling_usage(record),
        results=[
            RankedDocument(index=index, document=Document(text=texts[index]), relevance_score=scores[index])
            for index in best
        ],
    )


async def _compare(
    context: ServerContext,
    request: Request,
    body: ScoreRequest | RerankRequest,
    texts: list[str],
    pairs: list[tuple[int, int]],
) -> list[float]:
    """The scores of pairs of texts, which are given by their places in the list."""
    try:
        split_prompts(texts, context.settings.max_prompts)
        return await score(
            context,
            request,
            texts,
            pairs,
            pooling_options(request, body),
            use_activation=body.use_activation is not False,
        )
    except InvalidRequest as error:
        if error.param == "prompt":  # these requests have none, and it may be any of their texts
            error.param = None
        raise


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
