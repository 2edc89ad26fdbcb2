"""Triton's model repository extension: loading and unloading models that the server knows."""

from __future__ import annotations

from ...errors import InvalidRequest
from ..context import ServerContext
from .protocol import RepositoryBody


async def load(context: ServerContext, model: str, body: RepositoryBody) -> None:
    """Loads a model, or loads it anew, as its owner has configured it.

    Raises NotFound, ModelError, or InvalidRequest for parameters that clients cannot give here.
    """
    if body.parameters:
        raise InvalidRequest(
            f"load takes no parameters, got {sorted(body.parameters)[:8]}: models are configured by the "
            "server's owner",
            param="parameters",
        )
    await context.manager.load(model)


async def unload(context: ServerContext, model: str, body: RepositoryBody) -> None:
    """Unloads all versions of a model, once the requests that were let in are answered."""
    parameters = dict(body.parameters)
    dependents = parameters.pop("unload_dependents", False)  # there are none: models do not stand on others
    if parameters or not isinstance(dependents, bool):
        raise InvalidRequest(
            "unload takes one parameter, unload_dependents: true or false", param="parameters"
        )
    await context.manager.unload(model)
