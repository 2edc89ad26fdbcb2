"""`/v1/models`: which models there are."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from ..context import ServerContext
from ..language_models import LanguageModel
from .protocol import Model, ModelList


def list_models(context: ServerContext) -> Response:
    """All language models."""
    return _json(ModelList(data=[_shown(model) for model in context.language_models]))


def get_model(context: ServerContext, name: str) -> Response:
    """One model, or 404."""
    return _json(_shown(context.language_models.get(name)))


def _shown(model: LanguageModel) -> Model:
    return Model(
        id=model.name,
        created=model.created,
        root=model.engine.config.model,
        max_model_len=model.engine.max_model_len,
    )


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
