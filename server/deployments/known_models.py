"""Whether a deployment's versions are models of this server."""

from __future__ import annotations

from ...errors import InvalidRequest
from ..context import ServerContext
from .spec import DeploymentSpec


def check_models(context: ServerContext, spec: DeploymentSpec) -> None:
    """Raises `InvalidRequest` unless all versions are language models, or all are classic ones."""
    language = {model.name for model in context.language_models}
    classic: dict[str, set[str]] = {}
    if context.classic is not None:
        for entry in context.classic.registry.index():
            classic.setdefault(entry.name, set()).add(entry.version)
    kinds: set[bool] = set()
    for version in spec.versions:
        if version.model in classic and version.version in (None, *classic[version.model]):
            kinds.add(False)
        elif version.model in language and version.version is None:
            kinds.add(True)
        else:
            here = sorted({*language, *classic})
            raise InvalidRequest(
                f"version {version.id}: this server has no such model; it has {', '.join(here)}",
                param="versions",
            )
    if len(kinds) > 1:
        raise InvalidRequest("versions must be all language models, or all classic ones", param="versions")
