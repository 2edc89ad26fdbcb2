"""Which model a path means: classic ones by their registry, language models by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import NotFound
from ..context import ServerContext
from ..errors import RouteNotFound

if TYPE_CHECKING:
    from ...engine.data_plane import DataPlane

VERSION = "1"
"""That of every language model: there is one of a name."""


def model_of(path: str, prefix: str, suffix: str) -> tuple[str, str | None]:
    """Model and version in a path like /v2/models/{model}/versions/{version}/infer; raises RouteNotFound."""
    middle = path[len(prefix) : -len(suffix)]
    if middle and "/" not in middle:
        return middle, None
    parts = middle.split("/")
    if len(parts) == 3 and parts[0] and parts[1] == "versions" and parts[2]:
        return parts[0], parts[2]
    raise RouteNotFound(f"{path[:200]!r}: there is no such path", code="route_not_found")


def classic_models(context: ServerContext, model: str) -> DataPlane:
    """Where to ask for a classic model; raises NotFound if there is none at all."""
    if context.classic is None:  # numpy stays unloaded
        raise NotFound(f"there is no model {model!r}", param="model")
    return context.classic


def is_language_model(context: ServerContext, model: str, version: str | None) -> bool:
    """Whether a name is a language model's, of the version that it has."""
    return model in context.language_models and version in (None, VERSION)
