"""What the dialects of classic models share: finding a model, and asking it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..errors import InvalidRequest, NotFound, Unavailable
from .context import ServerContext

if TYPE_CHECKING:
    from ..engine.data_plane import DataPlane, Metadata
    from ..models.classic.predictor import Array, Arrays


def has_models(context: ServerContext) -> bool:
    """Whether there are classic models, without loading what they stand on."""
    return context.classic is not None


def plane(context: ServerContext, name: str) -> DataPlane:
    """Where to ask for a classic model, or for a deployment of some.

    Raises:
        NotFound: The name is a language model's, or there are no classic models. Whether there is one of
            this name is for the data plane to say.
    """
    if name in context.language_models:
        raise NotFound(f"{name!r} is a language model, which is asked by its own routes", param="model")
    if context.classic is None:  # numpy stays unloaded
        raise NotFound(f"there is no model {shown(name)}", param="model")
    return context.classic


async def metadata(context: ServerContext, name: str, version: str | None = None) -> Metadata:
    """A model's inputs and outputs; loads it, if it is one that is loaded when it is needed.

    Raises:
        NotFound: There is no such model.
        Unavailable: It is not loaded.
    """
    models = plane(context, name)
    await models.ensure(name, version)
    return models.metadata(name, version)


def refuse_if_full(context: ServerContext, name: str, version: str | None) -> None:
    """Raises `Overloaded` if a loaded model would refuse a request whatever it asks, and else as `plane`."""
    with contextlib.suppress(Unavailable):  # it may be loaded for the request
        plane(context, name).refuse_if_full(name, version)


async def infer(
    context: ServerContext,
    name: str,
    version: str | None,
    inputs: Arrays,
    parameters: Mapping[str, object] | None = None,
) -> dict[str, Array]:
    """Runs one request; see `DataPlane.infer`."""
    return await plane(context, name).infer(name, version, inputs, None, parameters)


def model_names(context: ServerContext) -> list[str]:
    """All classic models."""
    if context.classic is None:
        return []
    return sorted({entry.name for entry in context.classic.registry.index()})


def only_model(context: ServerContext, how: str) -> str:
    """The classic model that is meant where a request names none.

    Args:
        context: The server.
        how: How a request names one, for the message.

    Raises:
        NotFound: There is none.
        InvalidRequest: There are several.
    """
    names = model_names(context)
    if not names:
        raise NotFound("the server has no classic model", param="model")
    if len(names) > 1:
        raise InvalidRequest(f"the server has the models {names[:16]}; {how}", param="model")
    return names[0]


def shown(name: str) -> str:
    """A name that a client chose, for a message."""
    return repr(name) if len(name) <= 200 else f"of {len(name)} characters"
