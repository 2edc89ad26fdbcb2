"""Whether a deployment's versions are models of this server."""

from __future__ import annotations

from ...engine.managed_model import Kind
from ...engine.model_manager import ModelManager
from ...errors import InvalidRequest
from .spec import DeploymentSpec


def kind_of(manager: ModelManager, spec: DeploymentSpec) -> Kind | None:
    """What the versions of a deployment are; None if the server has none of them."""
    for version in spec.versions:
        for status in manager.index(version.model):
            return status.kind
    return None


def check_models(manager: ModelManager, spec: DeploymentSpec) -> None:
    """Raises `InvalidRequest` unless all versions are language models of the server, or all are classic ones.

    They need not be loaded.
    """
    versions: dict[str, set[str]] = {}
    kind_of: dict[str, str] = {}
    for status in manager.index():
        versions.setdefault(status.name, set()).add(status.version)
        kind_of[status.name] = status.kind
    for version in spec.versions:
        if version.model not in versions:
            here = ", ".join(sorted(versions))
            raise InvalidRequest(
                f"there is no model {version.model[:200]!r} here, only {here}", param="versions"
            )
        if version.version not in (None, *versions[version.model]):
            raise InvalidRequest(
                f"the model {version.model} has no version {version.version!r}, only "
                f"{', '.join(sorted(versions[version.model]))}",
                param="versions",
            )
    if len({kind_of[version.model] for version in spec.versions}) > 1:
        raise InvalidRequest("versions must be all language models, or all classic ones", param="versions")
