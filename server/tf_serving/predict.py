"""Predict, classify and regress, on the short way that does without the router."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING

from .. import classic
from ..hot import JSON, HotAnswer, HotRequest, HotRoute
from ..json_body import check_any, parse_object
from .protocol import write_failure
from .versions import Target

if TYPE_CHECKING:
    from ...models.classic.predictor import Array

PREFIX = "/v1/models/"


def verb_route(verb: str) -> HotRoute:
    """The route of "predict", "classify" or "regress", for models, versions and labels."""

    async def answer(request: HotRequest) -> HotAnswer:
        return await _answer(request, verb)

    return HotRoute(PREFIX, f":{verb}", f"{PREFIX}{{model}}:{verb}", answer, write_failure, _admit)


@functools.cache
def _bodies() -> ModuleType:
    """`.bodies`, which brings numpy: loaded when there is a classic model to ask."""
    from . import bodies

    return bodies


def _admit(request: HotRequest) -> None:
    """Refuses a request whose model is not there or has a full queue, before it is read."""
    target = Target.of_path(request.path)
    classic.refuse_if_full(request.context, target.model, target.find_version(request.context))
    check_any(request.headers)


async def _answer(request: HotRequest, verb: str) -> HotAnswer:
    context, target = request.context, Target.of_path(request.path)
    name, version = target.model, target.find_version(context)
    description = (await classic.metadata(context, name, version)).description
    request.record.model = name
    bodies, settings, body = _bodies(), context.settings, request.body

    def read() -> tuple[dict[str, Array], bool]:
        return bodies.read_body(description, parse_object(body, settings), verb)

    inputs, in_rows = await context.offload(len(body), read)
    outputs = await classic.infer(context, name, version, inputs)
    written = await context.offload(
        bodies.json_bytes(outputs), lambda: bodies.write_body(outputs, verb, in_rows=in_rows)
    )
    return HotAnswer(200, JSON, written)
