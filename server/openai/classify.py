"""`/classify`, in vLLM's form: which of a classifier's labels suit texts."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...engine.embeddings import as_floats
from ...errors import InvalidRequest
from ..context import RequestRecord, ServerContext
from ..json_body import read_message
from ..openapi import describe
from ..pooling import classify, head_of
from .completions import split_prompts
from .embeddings import PoolingFields, PoolingUsage, pooling_options, pooling_usage


class ClassifyRequest(PoolingFields, kw_only=True):
    """`input` is a text, a list of token ids, or a list of texts or of lists of token ids.

    `use_activation: false` gives the model's numbers, of which probabilities are made, as they are.
    """

    input: str | list[str | int | list[int]]
    use_activation: bool | None = None


class Classification(msgspec.Struct, kw_only=True):
    """What the model says to each of its labels, in their order; `label` is that of the largest number."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classifications(msgspec.Struct, kw_only=True):
    """The classifications, in the order of the texts."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classification]
    usage: PoolingUsage


TYPES = (Classifications, ClassifyRequest)
"""What the OpenAPI document defines."""


def classify_routes(context: ServerContext) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["classify"])

    @router.post("/classify", **describe("Classify texts", body=ClassifyRequest, answer=Classifications))
    @router.post(
        "/v1/classify", **describe("The same as /classify", body=ClassifyRequest, answer=Classifications)
    )
    async def classify_texts(request: Request) -> Response:
        body = await read_message(context, request, ClassifyRequest, unsupported={})
        try:
            return await _classify(context, request, body)
        except InvalidRequest as error:
            error.param = "input" if error.param == "prompt" else error.param
            raise

    _ = classify_texts
    return router


async def _classify(context: ServerContext, request: Request, body: ClassifyRequest) -> Response:
    record: RequestRecord = request.state.record
    context = await context.serving(body.model, record)
    prompts = split_prompts(body.input, context.settings.max_prompts)
    vectors = await classify(
        context,
        request,
        prompts,
        pooling_options(request, body),
        use_activation=body.use_activation is not False,
    )
    labels = head_of(context).labels

    def write() -> bytes:
        return msgspec.json.encode(
            Classifications(
                id=f"classify-{record.request_id}",
                created=int(time.time()),
                model=context.model_name,
                data=[
                    Classification(
                        index=index,
                        label=labels[int(vector.argmax())],
                        probs=as_floats(vector),
                        num_classes=len(labels),
                    )
                    for index, vector in enumerate(vectors)
                ],
                usage=pooling_usage(record),
            )
        )

    return Response(
        await context.offload(8 * len(labels) * len(vectors), write), media_type="application/json"
    )
