"""Asking classic models, whatever the transport: what every dialect of the server stands on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import InvalidRequest, NotFound, QuireError, Unavailable
from ..models.classic.predictor import Array, Arrays, Description
from .batcher import BatchStatistics
from .model_registry import ModelRegistry, ServedModel

PARAMETERS = ("priority", "timeout")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a client may know of a model.

    Attributes:
        name: The model's.
        version: The version.
        description: Its inputs and outputs.
        max_batch_size: Rows of a request at most; 0 if there is no batch dimension.
    """

    name: str
    version: str
    description: Description
    max_batch_size: int


class Endpoint(Protocol):
    """A name behind which versions of models stand, and something that chooses among them."""

    @property
    def primary(self) -> tuple[str, str | None]:
        """The model and the version that stand for all of them."""
        ...

    async def infer(self, ask: Callable[[str, str | None], Awaitable[dict[str, Array]]]) -> dict[str, Array]:
        """Asks one of them, by `ask(model, version)`; another one if that fails."""
        ...


class DataPlane:
    """Requests to the models of a registry.

    Args:
        registry: The models.

    Attributes:
        find_endpoint: The endpoint of a name, which goes before a model of this name where no version is
            asked for.
        load: Called with the name and the version of a model that is not loaded, before it is asked: loads
            it, if it is one that is loaded when it is needed.
    """

    def __init__(self, registry: ModelRegistry) -> None:
        self.registry = registry
        self.find_endpoint: Callable[[str], Endpoint | None] = _no_endpoint
        self.load: Callable[[str, str | None], Awaitable[None]] | None = None

    async def ensure(self, model: str, version: str | None = None) -> ServedModel:
        """The model, loaded first if it is one that is loaded when it is needed; raises as `infer` does."""
        return await self._loaded(*self.resolve(model, version))

    async def _loaded(self, model: str, version: str | None) -> ServedModel:
        try:
            return self.registry.get(model, version)
        except (NotFound, Unavailable):
            if self.load is None:
                raise
            await self.load(model, version)
            return self.registry.get(model, version)

    async def infer(
        self,
        model: str,
        version: str | None,
        inputs: Arrays,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> dict[str, Array]:
        """Runs one request.

        Args:
            model: The model's name.
            version: Its version, or None for the highest that is ready.
            inputs: Named arrays, as the model describes them; BYTES are arrays of `bytes` objects.
            outputs: The outputs wanted, or None for all.
            parameters: `priority`, from 1, the highest; `timeout`, microseconds in the queue; 0 is the
                model's default for both.

        Raises:
            NotFound: There is no such model.
            InvalidRequest: A value cannot be honoured; the message names it.
            Overloaded: The queue is full.
            Unavailable: The model is not loaded, or the request waited longer than it may.
            EngineError: The model failed on this request.
        """
        endpoint = self.find_endpoint(model) if version is None else None
        if endpoint is None:
            return await self._infer(model, version, inputs, outputs, parameters)

        def ask(name: str, chosen: str | None) -> Awaitable[dict[str, Array]]:
            return self._infer(name, chosen, inputs, outputs, parameters)

        return await endpoint.infer(ask)

    async def _infer(
        self,
        model: str,
        version: str | None,
        inputs: Arrays,
        outputs: Sequence[str] | None,
        parameters: Mapping[str, Any] | None,
    ) -> dict[str, Array]:
        served = await self._loaded(model, version)
        description = served.pool.description
        description.check(inputs)
        if outputs is not None:
            _check_outputs(outputs, description)
        priority = timeout = 0
        if parameters:
            priority, timeout = (_parameter(parameters, name) for name in PARAMETERS)
            if strangers := parameters.keys() - set(PARAMETERS):
                raise InvalidRequest(
                    f"there are no parameters {sorted(strangers)}, only {', '.join(PARAMETERS)}",
                    param="parameters",
                )
        answer = await served.batcher.infer(inputs, priority=priority, timeout_microseconds=timeout)
        return answer if outputs is None else {name: answer[name] for name in outputs}

    def refuse_if_full(self, model: str, version: str | None = None) -> None:
        """Raises `Overloaded` if a request would be refused whatever it asks, and else as `infer` does.

        For servers: a request that cannot be taken need not be read.
        """
        self.registry.get(*self.resolve(model, version)).batcher.refuse_if_full()

    def metadata(self, model: str, version: str | None = None) -> Metadata:
        """The inputs and outputs of a model that is loaded (see `ensure`); raises as `infer` does."""
        served = self.registry.get(*self.resolve(model, version))
        limit = served.batcher.config.max_batch_size
        return Metadata(model, served.config.version, served.pool.description, limit)

    def ready(self, model: str, version: str | None = None) -> bool:
        """Whether a model can be asked."""
        try:
            return self.registry.get(*self.resolve(model, version)).is_ready
        except QuireError:
            return False

    def statistics(self, model: str, version: str | None = None) -> BatchStatistics:
        """What a model's batcher has done; raises as `infer` does."""
        return self.registry.get(*self.resolve(model, version)).batcher.statistics

    def resolve(self, model: str, version: str | None) -> tuple[str, str | None]:
        """The model that stands for a name: itself, unless it is an endpoint's."""
        endpoint = self.find_endpoint(model) if version is None else None
        return (model, version) if endpoint is None else endpoint.primary


def _no_endpoint(name: str) -> None:
    """There are only models."""


def _check_outputs(names: Sequence[str], description: Description) -> None:
    known = {spec.name for spec in description.outputs}
    if strangers := sorted(set(names) - known):
        raise InvalidRequest(
            f"the model has no outputs {strangers[:8]}; it gives {sorted(known)}", param="outputs"
        )
    if len(set(names)) != len(names):
        raise InvalidRequest("an output is named twice", param="outputs")


def _parameter(parameters: Mapping[str, Any], name: str) -> int:
    value = parameters.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest(f"{name} is {value!r}; it must be a whole number from 0", param=name)
    return value
