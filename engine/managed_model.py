"""A model as the manager keeps it: what it is, when it is loaded, and how it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import ModelTooLarge
from .config import EngineConfig

if TYPE_CHECKING:
    from .async_engine import AsyncEngine
    from .model_registry import ClassicModelConfig, Entry

logger = logging.getLogger(__name__)

LoadPolicy = Literal["start", "on_demand", "manual"]
LOAD_POLICIES: tuple[LoadPolicy, ...] = ("start", "on_demand", "manual")

Kind = Literal["llm", "classic"]
State = Literal["unloaded", "loading", "ready", "unavailable"]

LANGUAGE_MODEL_VERSION = "1"
"""Language models have no versions of their own: another one has another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model that the server is to have.

    Raises ValueError naming the setting and its value if one is out of range.

    Attributes:
        name: As clients name it.
        config: What is loaded.
        load: "start" loads it before the server is ready; "on_demand" when the first request for it comes;
            "manual" when the server's owner asks for it.
        pinned: It is never unloaded to make room for another. By default true for those that are loaded at
            the start.
    """

    name: str
    config: EngineConfig | ClassicModelConfig
    load: LoadPolicy = "start"
    pinned: bool | None = None

    def __post_init__(self) -> None:
        if self.load not in LOAD_POLICIES:
            raise ValueError(f"load must be one of {', '.join(LOAD_POLICIES)}, got {self.load!r}")

    @classmethod
    def of(cls, config: EngineConfig | ClassicModelConfig) -> ModelSpec:
        """A model that is loaded at the start, under the name that its settings give it."""
        return cls(name=config.model_name if isinstance(config, EngineConfig) else config.name, config=config)

    @property
    def kind(self) -> Kind:
        """What it is."""
        return "llm" if isinstance(self.config, EngineConfig) else "classic"

    @property
    def version(self) -> str:
        """Its version."""
        return LANGUAGE_MODEL_VERSION if isinstance(self.config, EngineConfig) else self.config.version

    @property
    def is_pinned(self) -> bool:
        """Whether it is never unloaded to make room."""
        return self.load == "start" if self.pinned is None else self.pinned


@dataclass(slots=True, eq=False)
class ManagedModel:
    """What the manager knows of one version of a model.

    Attributes:
        spec: What it is.
        wanted: It is to be loaded: the server is not ready unless it is.
        reason: Why it is not loaded.
        num_bytes: The memory that it takes, or that is kept for it while it is loaded; 0 if none.
        last_bytes: What it took when it was loaded last, so that room can be made before the next time.
        made_room: It was unloaded to make room, and comes back when it is asked for.
        retry_at: After a failed loading, when it may be tried again for a request.
        engine: A language model's, if it is loaded.
        loading: What loads it, at the moment.
        lock: Held by whoever loads or unloads it.
    """

    spec: ModelSpec
    wanted: bool = False
    reason: str = "not loaded"
    num_bytes: int = 0
    last_bytes: int = 0
    made_room: bool = False
    retry_at: float = 0.0
    engine: AsyncEngine | None = None
    loading: asyncio.Task[None] | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def loads_on_demand(self) -> bool:
        """Whether a request for it has it loaded."""
        return self.spec.load == "on_demand" or self.made_room

    def __str__(self) -> str:
        if self.spec.kind == "llm":
            return self.spec.name
        return f"version {self.spec.version} of {self.spec.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """How a version of a model is at the moment.

    Attributes:
        name, version, kind, load, pinned: As in its `ModelSpec`.
        state: "unavailable" is loaded and yet not ready, or could not be loaded.
        reason: Why it is not ready.
        wanted: Whether the server waits for it to be ready.
        memory_bytes: What its processes take, about; 0 if there are none.
    """

    name: str
    version: str
    kind: Kind
    state: State
    reason: str
    load: LoadPolicy
    pinned: bool
    wanted: bool
    memory_bytes: int


StartEngine = Callable[[EngineConfig], Awaitable["AsyncEngine"]]


class EngineHost(Protocol):
    """Where the engines of language models are served."""

    def add(self, name: str, engine: AsyncEngine) -> object:
        """Serves an engine under a name."""
        ...

    def put(self, name: str, engine: AsyncEngine | None) -> Awaitable[None]:
        """Serves an engine under a name from now on, or none.

        What it returns is done when the requests to the engine that was served there before are over.
        """
        ...

    def last_used(self, name: str) -> float:
        """When a request to a model came last, on the monotonic clock; infinite while one is running."""
        ...


def status_of(model: ManagedModel, entry: Entry | None) -> ModelStatus:
    """How a model is; `entry` is what the registry has of a classic one."""
    state, reason = _state_of(model, entry)
    num_bytes = 0
    if model.engine is not None:
        num_bytes = model.engine.memory_bytes
    elif entry is not None and entry.model is not None:
        num_bytes = entry.model.pool.memory_bytes
    spec = model.spec
    return ModelStatus(
        name=spec.name,
        version=spec.version,
        kind=spec.kind,
        state=state,
        reason=reason,
        load=spec.load,
        pinned=spec.is_pinned,
        wanted=model.wanted,
        memory_bytes=num_bytes,
    )


def _state_of(model: ManagedModel, entry: Entry | None) -> tuple[State, str]:
    if model.engine is not None:
        return ("ready", "") if model.engine.is_ready else ("unavailable", "its engine is not ready")
    if entry is not None and entry.model is not None:
        if entry.model.is_ready:
            return "ready", ""
        return "unavailable", entry.model.pool.failure or "its processes are being restarted"
    if model.loading is not None or (entry is not None and entry.state == "loading"):
        return "loading", ""
    return ("unavailable" if model.retry_at else "unloaded"), model.reason


def who_makes_room(
    new: ManagedModel,
    needed: int,
    budget: int,
    others: Sequence[ManagedModel],
    idle: Sequence[ManagedModel],
) -> list[ManagedModel]:
    """The models to unload so that a new one fits.

    Args:
        new: The new one.
        needed: The bytes that it takes.
        budget: The bytes that all may take together.
        others: All but the new one.
        idle: Those of them that may be unloaded, in the order in which they go.

    Raises:
        ModelTooLarge: It would not fit if all of these were gone.
    """
    if needed > budget:
        raise ModelTooLarge(f"{new} takes {needed} bytes; the memory budget is {budget}")
    taken = sum(model.num_bytes for model in others)
    fixed = taken - sum(model.num_bytes for model in idle)
    if fixed + needed > budget:
        raise ModelTooLarge(
            f"{new} takes {needed} bytes, and models that cannot be unloaded {fixed}; "
            f"the memory budget is {budget}"
        )
    going: list[ManagedModel] = []
    for model in idle:
        if taken + needed <= budget:
            break
        going.append(model)
        taken -= model.num_bytes
    return going


async def start_engine(config: EngineConfig) -> AsyncEngine:
    """Starts an engine."""
    from .async_engine import AsyncEngine  # late: what it stands on is absent where only models are used

    return await AsyncEngine.start(config)


def note_failure(task: asyncio.Task[None]) -> None:
    """Takes note of what a loading raised, which nobody may be left to hear."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a model was not loaded: %s", error)
