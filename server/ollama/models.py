"""Which models there are, and what they are, in Ollama's words."""

from __future__ import annotations

import re

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ...errors import InvalidRequest
from ..answers import find_format
from ..context import ServerContext
from .answers import timestamp
from .body import read_body
from .options import can_think
from .prompts import find, tagged
from .protocol import (
    UNSUPPORTED_IN_SHOW,
    OllamaDetails,
    OllamaModel,
    OllamaModels,
    OllamaShow,
    OllamaShowRequest,
)

NEVER = "9999-12-31T23:59:59Z"


def list_models(context: ServerContext, *, loaded: bool) -> Response:
    """`/api/tags` and, with what is known of loaded models, `/api/ps`: in both those that are served."""
    return _json(OllamaModels([_listed(context.about(model), loaded) for model in context.language_models]))


def _listed(context: ServerContext, loaded: bool) -> OllamaModel:
    name = tagged(context.model_name)
    model = OllamaModel(
        name=name, model=name, modified_at=timestamp(context.model.created), details=_details(context)
    )
    if loaded:
        model.expires_at = NEVER
        model.context_length = context.engine.max_model_len
    return model


async def show(context: ServerContext, request: Request) -> Response:
    """`/api/show`: one model."""
    body = await read_body(context, request, OllamaShowRequest, unsupported=UNSUPPORTED_IN_SHOW)
    name = body.model or body.name
    if not name:
        raise InvalidRequest("model is required", param="model", code="missing_parameter")
    context = find(context, name)
    engine = context.engine
    generation = engine.model_config.generation
    recommended = {
        "repeat_penalty": generation.repetition_penalty,
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": generation.top_p,
    }
    answer = OllamaShow(
        parameters="\n".join(
            f"{name:30} {value:g}" for name, value in recommended.items() if value is not None
        ),
        template=engine.chat_template.sources.get("default", ""),
        details=_details(context),
        model_info=_model_info(context),
        capabilities=_capabilities(context),
        modified_at=timestamp(context.model.created),
    )
    return _json(answer)


def _family(context: ServerContext) -> str:
    """The architecture without the task that its class is for."""
    name = context.engine.model_config.architecture
    return re.sub(r"(For[A-Z]\w+|Model)$", "", name).lower()


def _details(context: ServerContext) -> OllamaDetails:
    config = context.engine.config
    family = _family(context)
    level = config.quantization or context.engine.model_config.dtype
    return OllamaDetails(family=family, families=[family], quantization_level=level)


def _model_info(context: ServerContext) -> dict[str, str | int]:
    config = context.engine.model_config
    family = _family(context)
    figures = {
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "block_count": config.num_layers,
        "context_length": context.engine.max_model_len,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": config.vocab_size,
    }
    return {"general.architecture": family, **{f"{family}.{name}": value for name, value in figures.items()}}


def _capabilities(context: ServerContext) -> list[str]:
    engine = context.engine
    if not engine.model_config.generates:
        return [] if engine.pooling.classifier else ["embedding"]
    capabilities = ["completion"]
    template = engine.chat_template
    found = find_format(context.settings, template.sources, engine.tokenizer)
    if found.tools is not None and "tools" in template.variables(with_tools=True):
        capabilities.append("tools")
    if can_think(context):
        capabilities.append("thinking")
    return capabilities


def _json(message: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(message), media_type="application/json")
