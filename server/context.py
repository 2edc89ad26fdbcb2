"""What the handlers share, and what is known of one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from .admin.port import AdminPort
from .deployments.manager import Deployments
from .deployments.routing import find_version
from .errors import ErrorWriter, write_error
from .hot import HotRoutes
from .keys import ApiKey
from .paths import PathRules
from .rate_limits import KeyLimits, RateLimits
from .settings import ServerSettings

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine
    from ..engine.data_plane import DataPlane
    from ..engine.model_manager import ModelManager
    from .deployments.deployment import Attempt
    from .language_models import LanguageModel, LanguageModels
    from .metrics import Metrics

T = TypeVar("T")


@dataclass(slots=True)
class ServerState:
    """What all models of one server share. Owned by the app, changed by the gate and by the drain."""

    settings: ServerSettings
    metrics: Metrics
    language_models: LanguageModels
    manager: ModelManager
    plane: DataPlane | None = None  # the classic models, once one of them has been declared
    created: int = field(default_factory=lambda: int(time.time()))
    draining: bool = False
    num_in_flight: int = 0  # requests to anything but the probes
    limits: RateLimits = field(default_factory=RateLimits)
    num_body_bytes: int = 0  # in bodies that are being read or parsed
    paths: PathRules = field(default_factory=PathRules)
    hot: HotRoutes = field(default_factory=HotRoutes)
    admin: AdminPort = field(default_factory=AdminPort)
    deployments: Deployments = field(default_factory=Deployments)


class ServerContext:
    """The server as a handler sees it, with the language model that it is about.

    The one that routes are made with is about the default model, whichever that is; `serving` gives the one
    for a request that names a model.

    Args:
        state: What is shared.
        model: The language model; None for the default one.
    """

    __slots__ = ("_model", "state")

    def __init__(self, state: ServerState, model: LanguageModel | None = None) -> None:
        self.state = state
        self._model = model

    async def serving(self, name: str | None, record: RequestRecord) -> ServerContext:
        """The context for a request to a language model, which stays loaded until the request is over.

        Args:
            name: As the client wrote it; None for the default model. No path is ever made of it.
            record: The request's.

        Raises:
            NotFound: There is no such model.
            Unavailable: It is not loaded, and cannot be.
        """
        deployment = None if name is None else self.deployments.find(name, "llm")
        if deployment is None:
            model = await self.language_models.find(name)
        else:
            model = await find_version(self.deployments, deployment, record, self.language_models.find)
        model.enter()
        record.model = model.name
        record.at_end.append(model.leave)
        return ServerContext(self.state, model)

    def about(self, model: LanguageModel) -> ServerContext:
        """The context of a model, for those who only look at it."""
        return ServerContext(self.state, model)

    @property
    def model(self) -> LanguageModel:
        """The language model. Raises `NotFound` if the server has none."""
        return self._model or self.language_models.get(None)

    @property
    def engine(self) -> AsyncEngine:
        """The language model's engine."""
        return self.model.engine

    @property
    def model_name(self) -> str:
        """The name that clients use."""
        return self.model.name

    @property
    def language_models(self) -> LanguageModels:
        """All language models."""
        return self.state.language_models

    @property
    def classic(self) -> DataPlane | None:
        """The classic models, if there are any; asking does not load what they stand on."""
        state = self.state
        if state.plane is None and state.manager.registry is not None:
            from ..engine.data_plane import DataPlane  # late: with numpy, which many servers never need

            state.plane = DataPlane(state.manager.registry)
            self.prepare(state.plane)
        return state.plane

    @property
    def models(self) -> DataPlane:
        """The classic models."""
        if self.state.manager.registry is None:
            from ..engine.model_registry import ModelRegistry

            self.state.manager.use_registry(ModelRegistry())
        plane = self.classic
        assert plane is not None
        return plane

    def prepare(self, plane: DataPlane) -> None:
        """Has a data plane load models when they are needed, and deployments stand before them."""
        from .deployments.classic import attach

        plane.load = self.state.manager.ensure_classic
        attach(plane, self.state.deployments)

    @property
    def manager(self) -> ModelManager:
        """What loads and unloads models."""
        return self.state.manager

    @property
    def settings(self) -> ServerSettings:
        """Limits and switches."""
        return self.state.settings

    @property
    def metrics(self) -> Metrics:
        """The server's metrics."""
        return self.state.metrics

    @property
    def paths(self) -> PathRules:
        """What dialects say of their paths."""
        return self.state.paths

    @property
    def admin(self) -> AdminPort:
        """The admin port, for routes that are on no other."""
        return self.state.admin

    @property
    def hot(self) -> HotRoutes:
        """The routes that are answered before the router."""
        return self.state.hot

    @property
    def deployments(self) -> Deployments:
        """The deployments."""
        return self.state.deployments

    @property
    def limits(self) -> RateLimits:
        """The books of all API keys."""
        return self.state.limits

    @limits.setter
    def limits(self, limits: RateLimits) -> None:
        self.state.limits = limits

    @property
    def draining(self) -> bool:
        """Whether the server is ending, and takes no new requests."""
        return self.state.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self.state.draining = draining

    @property
    def num_in_flight(self) -> int:
        """Requests to anything but the probes."""
        return self.state.num_in_flight

    @num_in_flight.setter
    def num_in_flight(self, number: int) -> None:
        self.state.num_in_flight = number

    @property
    def num_body_bytes(self) -> int:
        """Bytes in bodies that are being read or parsed."""
        return self.state.num_body_bytes

    @num_body_bytes.setter
    def num_body_bytes(self, number: int) -> None:
        self.state.num_body_bytes = number

    async def offload(self, num_bytes: int, work: Callable[[], T]) -> T:
        """The result of `work`, which runs in a thread if it has more than a little to do."""
        if num_bytes <= self.settings.inline_bytes:
            return work()
        return await anyio.to_thread.run_sync(work)


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request on its way through the server; becomes its line in the log.

    Attributes:
        request_id: The id that the client gave or, if it gave none, the server's own. Two
            requests may carry the same one: the engine never sees it.
        internal_id: The server's own, unique.
        key: The API key that it brought; None where none is needed.
        key_digest: Names the API key without revealing it; separates the prefix caches of keys.
        write_error: Writes an error in the form of the path's dialect.
        limits: The books of its API key, if the request counts there.
        model: The model that it is for, once that is known.
        at_end: Called by `end`, for whoever holds something for the request.
        attempt: The version that a deployment has chosen for it, and how that goes.
        version: That version's id, for the reply's headers.
        model_version: That version of the model, if it is a classic one and the deployment says which.
        is_mirrored: Whether it goes to a deployment's shadow, and nobody sees the answer.
    """

    request_id: str
    internal_id: str
    key: ApiKey | None = None
    key_digest: str | None = None
    limits: KeyLimits | None = None
    model: str | None = None
    at_end: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generation_tokens: int = 0
    num_reasoning_tokens: int = 0
    user: str | None = None
    tags: dict[str, str] = field(default_factory=dict[str, str])
    error: Exception | None = None
    write_error: ErrorWriter = write_error
    attempt: Attempt | None = None
    version: str | None = None
    model_version: str | None = None
    is_mirrored: bool = False

    def mirrored(self, internal_id: str) -> RequestRecord:
        """The record of a request that asks the same and is nobody's: it counts for no limit."""
        return RequestRecord(
            request_id=internal_id,
            internal_id=internal_id,
            key=self.key,
            key_digest=self.key_digest,
            user=self.user,
            is_mirrored=True,
        )

    @property
    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.perf_counter() - self.started

    def end(self) -> None:
        """The request is over, however it ended; whoever let it in calls this once."""
        while self.at_end:
            self.at_end.pop()()
