"""`/v1/models`: which models there are."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from .. import classic
from ..context import ServerContext
from ..language_models import LanguageModel
from ..tf_serving.protocol import TfStatusDetails, TfVersionStatus
from ..tf_serving.versions import Target, status
from .protocol import Model, ModelList


def list_models(context: ServerContext) -> Response:
    """All language models, those that are loaded on demand too, and the deployments of such."""
    models = [_shown(model) for model in context.language_models] + _on_demand(context)
    return _json(ModelList(data=models + _deployed(context)))


def get_model(context: ServerContext, name: str) -> Response:
    """One model, or 404; a classic one, too, since TensorFlow Serving has its models' status here."""
    if name not in context.language_models and name in classic.model_names(context):
        model = Model(id=name, created=context.state.created, root=name)
        model.model_version_status = status(context, Target(name)).model_version_status
        return _json(model)
    if name not in context.language_models:
        for model in _deployed(context):
            if model.id == name:
                return _json(model)
        for model in _on_demand(context):
            if model.id == name:
                model.model_version_status = [TfVersionStatus("1", "END", TfStatusDetails("OK", ""))]
                return _json(model)
    found = context.language_models.get(name)
    model = _shown(found)
    model.model_version_status = [
        TfVersionStatus("1", "AVAILABLE" if found.engine.is_ready else "LOADING", TfStatusDetails("OK", ""))
    ]
    return _json(model)


def _deployed(context: ServerContext) -> list[Model]:
    """Deployments of language models, each as the version that has most of its traffic."""
    here = context.language_models
    found: list[Model] = []
    for deployment in context.deployments:
        primary = deployment.primary.model
        if primary in here and deployment.name not in here:
            found.append(msgspec.structs.replace(_shown(here.get(primary)), id=deployment.name))
    return found


def _on_demand(context: ServerContext) -> list[Model]:
    """The language models that their first request loads; how long their contexts are is not known yet."""
    return [
        Model(id=name, created=context.state.created, root=config.model)
        for name, config in context.manager.engines_on_demand()
    ]


def _shown(model: LanguageModel) -> Model:
    return Model(
        id=model.name,
        created=model.created,
        root=model.engine.config.model,
        max_model_len=model.engine.max_model_len,
    )


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
