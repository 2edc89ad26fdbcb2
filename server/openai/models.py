"""`/v1/models`: which models there are."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from ...errors import NotFound
from ..context import ServerContext
from .protocol import Model, ModelList


def check_model(context: ServerContext, name: str | None) -> None:
    """Raises `NotFound` unless `name` is the served model's, or None. No path is ever made of it."""
    if name is not None and name != context.model_name:
        shown = repr(name) if len(name) <= 200 else f"of {len(name)} characters"
        raise NotFound(f"there is no model {shown}; this server has {context.model_name!r}", param="model")


def list_models(context: ServerContext) -> Response:
    """All models."""
    return _json(ModelList(data=[_served(context)]))


def get_model(context: ServerContext, name: str) -> Response:
    """One model, or 404."""
    check_model(context, name)
    return _json(_served(context))


def _served(context: ServerContext) -> Model:
    return Model(
        id=context.model_name,
        created=context.created,
        root=context.engine.config.model,
        max_model_len=context.engine.max_model_len,
    )


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
