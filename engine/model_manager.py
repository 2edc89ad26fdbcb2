"""The models that a server is to have, language models and classic ones: loaded, unloaded, making room.

`ModelRegistry` has the classic models that are loaded, and an `EngineHost` the language models. Here is what
there should be, when each is loaded, and which goes when memory is short.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import NotFound, QuireError, Unavailable
from .config import EngineConfig
from .managed_model import (
    LANGUAGE_MODEL_VERSION,
    EngineHost,
    ManagedModel,
    ModelSpec,
    ModelStatus,
    StartEngine,
    note_failure,
    start_engine,
    status_of,
    who_makes_room,
)

if TYPE_CHECKING:
    from .async_engine import AsyncEngine
    from .model_registry import Entry, ModelRegistry

logger = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""After a failed loading, requests for the model are refused so long before one has it tried again."""

MAX_SHOWN_CHARACTERS = 200

LOADING_AT_ONCE = 4
"""Classic models at the start: more would wait for each other's cores."""


class ModelManager:
    """All models of a server. Used from one event loop.

    Args:
        memory_budget: Bytes that all models' processes may take; the least recently used that are not
            pinned are unloaded when another does not fit. None is no budget.
        start_engine: Starts a language model's engine.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        memory_budget: int | None = None,
        start_engine: StartEngine = start_engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if memory_budget is not None and memory_budget < 1:
            raise ValueError(f"memory_budget must be at least 1, not {memory_budget}")
        self.memory_budget = memory_budget
        self._host: EngineHost | None = None
        self._start_engine = start_engine
        self._clock = clock
        self._models: dict[tuple[str, str], ManagedModel] = {}
        self._registry: ModelRegistry | None = None
        self._room = asyncio.Lock()

    @property
    def registry(self) -> ModelRegistry | None:
        """The classic models; None where there have never been any."""
        return self._registry

    def connect(self, host: EngineHost) -> None:
        """Has the engines that are loaded, and those that will be, served."""
        self._host = host
        for model in self._models.values():
            if model.engine is not None:
                host.add(model.spec.name, model.engine)

    def use_registry(self, registry: ModelRegistry) -> None:
        """Takes a registry with what is in it; before the first classic model is declared."""
        self._registry = registry
        registry.make_room = self._make_room_for_entry
        self._adopt()

    def declare(self, spec: ModelSpec) -> None:
        """Lets a model be known. One that is known gets other settings, for its next loading.

        Raises:
            ValueError: The name is one of the other kind's.
        """
        kinds = {model.spec.kind for model in self._models.values() if model.spec.name == spec.name}
        if kinds - {spec.kind}:
            raise ValueError(f"{spec.name!r} is the name of a language model and of a classic model")
        if not isinstance(spec.config, EngineConfig):
            if self._registry is None:
                from .model_registry import ModelRegistry  # late: it stands on numpy

                self.use_registry(ModelRegistry())
            assert self._registry is not None
            how = "loaded when it is asked for" if spec.load == "on_demand" else "not loaded"
            self._registry.declare(spec.config, how)
        key = spec.name, spec.version
        if key in self._models:
            self._models[key].spec = spec
        else:
            self._models[key] = ManagedModel(spec)

    def adopt_engine(self, name: str, engine: AsyncEngine) -> None:
        """Takes an engine that is being served; shutting it down is the manager's task from now on."""
        spec = ModelSpec(name=name, config=engine.config)
        model = ManagedModel(spec, wanted=True, engine=engine)
        self._models[name, LANGUAGE_MODEL_VERSION] = model

    async def start(self) -> None:
        """Loads the models that are loaded at the start: engines one after another, as each takes a share of
        the memory that is free, and the classic models beside them.

        Raises:
            QuireError: A model cannot be loaded; the message names it.
            ValueError: A setting does not fit this machine.
        """
        wanted = [model for model in self._models.values() if model.spec.load == "start"]
        engines = [model for model in wanted if model.spec.kind == "llm"]
        others = [model for model in wanted if model.spec.kind == "classic"]
        slots = asyncio.Semaphore(LOADING_AT_ONCE)

        async def load_classic(model: ManagedModel) -> None:
            async with slots:
                await self._start_one(model)

        async def load_engines() -> None:
            for model in engines:
                await self._start_one(model)

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(load_engines())
                for model in others:
                    group.create_task(load_classic(model))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def load(self, name: str, version: str | None = None) -> None:
        """Loads a version of a model, or all; one that is loaded serves until it has been loaded anew.

        Raises:
            NotFound: There is no such model.
            ModelError: It cannot be loaded, or does not fit the budget.
        """
        for model in self._named(name, version):
            await self._load(model, again=True)

    async def unload(self, name: str, version: str | None = None) -> None:
        """Unloads a version of a model, or all, once the requests that were let in are answered.

        Raises:
            NotFound: There is no such model.
        """
        for model in self._named(name, version):
            async with model.lock:
                await self._unload(model, "unloaded")

    async def forget(self, name: str, version: str | None = None) -> None:
        """Unloads a version of a model, or all, and knows it no longer.

        Raises:
            NotFound: There is no such model.
        """
        await self.unload(name, version)
        for model in self._named(name, version):
            if model.spec.kind == "classic" and self._registry is not None:
                self._registry.forget(name, model.spec.version)
            del self._models[name, model.spec.version]

    async def ensure_engine(self, name: str) -> None:
        """As `ensure_classic`, for a language model; does nothing if there is none of this name."""
        model = self._models.get((name, LANGUAGE_MODEL_VERSION))
        if model is not None and model.spec.kind == "llm":
            await self._ensure([model])

    async def ensure_classic(self, name: str, version: str | None = None) -> None:
        """Sees to it that a classic model is loaded, if a request is reason enough to load it.

        Args:
            name: The model's.
            version: Its version, or None for the highest that a request may have loaded.

        Raises:
            NotFound: There is no such model.
            Unavailable: It is not loaded, and is not to be, or cannot be.
        """
        await self._ensure([model for model in self._named(name, version) if model.spec.kind == "classic"])

    async def _ensure(self, candidates: Sequence[ManagedModel]) -> None:
        if not candidates or any(self._is_loaded(model) for model in candidates):
            return
        model = next((each for each in candidates if each.loads_on_demand), candidates[0])
        if not model.loads_on_demand and model.loading is None:
            raise Unavailable(f"{model} is {model.reason}", code="model_not_loaded")
        if self._clock() < model.retry_at:
            raise Unavailable(f"{model} cannot be loaded: {model.reason}", code="model_not_loaded")
        try:
            await self._load(model, again=False)
        except QuireError as error:
            logger.warning("%s cannot be loaded: %s", model, error.message)
            raise Unavailable(
                f"{model} cannot be loaded: {error.message}", code="model_not_loaded"
            ) from error

    def knows(self, name: str) -> bool:
        """Whether there is a model of this name, loaded or not."""
        self._adopt()
        return any(model.spec.name == name for model in self._models.values())

    def engines_on_demand(self) -> list[tuple[str, EngineConfig]]:
        """The language models that are not loaded, and would be for a request."""
        return [
            (model.spec.name, model.spec.config)
            for model in self._models.values()
            if isinstance(model.spec.config, EngineConfig)
            if model.engine is None and model.loads_on_demand
        ]

    def index(self, name: str | None = None) -> list[ModelStatus]:
        """The states of all versions of all models, or of one; empty if there is none."""
        self._adopt()
        return [
            status_of(model, self._entry(model))
            for model in sorted(self._models.values(), key=lambda each: int(each.spec.version))
            if name in (None, model.spec.name)
        ]

    def not_ready(self) -> list[str]:
        """The models that should be ready and are not, each with the reason."""
        self._adopt()
        return [
            f"{model} is {status.state}" + (f": {status.reason}" if status.reason else "")
            for model in self._models.values()
            if model.wanted and (status := status_of(model, self._entry(model))).state != "ready"
        ]

    async def close(self) -> None:
        """Ends everything; what is being loaded is given up."""
        tasks = [model.loading for model in self._models.values() if model.loading is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engines = [model.engine for model in self._models.values() if model.engine is not None]
        await asyncio.gather(*(engine.shutdown() for engine in engines))
        if self._registry is not None:
            await self._registry.close()

    async def _start_one(self, model: ManagedModel) -> None:
        try:
            await self._load(model, again=False)
        except QuireError as error:
            if len(self._models) > 1:
                error.message = f"{model}: {error.message}"
                error.args = (error.message,)
            raise

    async def _load(self, model: ManagedModel, *, again: bool) -> None:
        """Loads a model; whoever comes while it is being loaded waits for that."""
        if model.loading is None:
            if not again and self._is_loaded(model):
                return
            model.loading = asyncio.create_task(self._load_now(model))
            model.loading.add_done_callback(note_failure)
        # Who waits may give up; the loading goes on, for others wait, too.
        await asyncio.shield(model.loading)

    async def _load_now(self, model: ManagedModel) -> None:
        try:
            async with model.lock:
                if model.last_bytes and not self._is_loaded(model):
                    await self._make_room(model, model.last_bytes)
                if isinstance(model.spec.config, EngineConfig):
                    await self._load_engine(model, model.spec.config)
                else:
                    assert self._registry is not None
                    await self._registry.load(model.spec.config)
                model.wanted, model.made_room = True, False
                model.reason, model.retry_at = "", 0.0
        except BaseException as error:
            if not self._is_loaded(model):
                model.num_bytes = 0
                model.reason = error.message if isinstance(error, QuireError) else type(error).__name__
                model.retry_at = self._clock() + RETRY_SECONDS
            raise
        finally:
            model.loading = None

    async def _load_engine(self, model: ManagedModel, config: EngineConfig) -> None:
        engine = await self._start_engine(config)
        try:
            await self._make_room(model, engine.memory_bytes)
        except BaseException:
            await engine.shutdown()
            raise
        old, model.engine = model.engine, engine
        await self._put(model.spec.name, engine)
        if old is not None:
            await old.shutdown()

    async def _unload(self, model: ManagedModel, reason: str) -> None:
        model.wanted, model.made_room, model.reason = False, False, reason
        engine, model.engine = model.engine, None
        if engine is not None:
            await self._put(model.spec.name, None)
            await engine.shutdown()
        elif model.spec.kind == "classic" and self._registry is not None:
            await self._registry.unload(model.spec.name, model.spec.version)
        model.num_bytes = 0

    async def _put(self, name: str, engine: AsyncEngine | None) -> None:
        if self._host is not None:
            await self._host.put(name, engine)

    async def _make_room_for_entry(self, entry: Entry, needed: int) -> None:
        self._adopt()
        model = self._models.get((entry.name, entry.version))
        if model is not None:
            await self._make_room(model, needed)
            model.wanted = True  # also if it was loaded past the manager

    async def _make_room(self, new: ManagedModel, needed: int) -> None:
        """Unloads the least recently used models until a new one fits, and keeps the place for it."""
        async with self._room:
            new.last_bytes = needed
            budget = self.memory_budget
            if budget is None:
                new.num_bytes = needed
                return
            others = [model for model in self._models.values() if model is not new]
            for model in others:
                if model.engine is not None:  # engines grow
                    model.num_bytes = max(model.num_bytes, model.engine.memory_bytes)
            idle = [each for each in others if self._is_loaded(each) and self._may_go(each)]
            for model in who_makes_room(new, needed, budget, others, sorted(idle, key=self._last_used)):
                logger.info("%s makes room for %s", model, new)
                async with model.lock:
                    await self._unload(model, f"unloaded to make room for {new}")
                    model.made_room = True
            new.num_bytes = needed

    def _may_go(self, model: ManagedModel) -> bool:
        return not model.spec.is_pinned and not model.lock.locked()

    def _last_used(self, model: ManagedModel) -> float:
        if model.engine is not None:
            return 0.0 if self._host is None else self._host.last_used(model.spec.name)
        entry = self._entry(model)
        return 0.0 if entry is None else entry.last_used

    def _entry(self, model: ManagedModel) -> Entry | None:
        if self._registry is None or model.spec.kind == "llm":
            return None
        return self._registry.entry(model.spec.name, model.spec.version)

    def _is_loaded(self, model: ManagedModel) -> bool:
        entry = self._entry(model)
        return model.engine is not None or (entry is not None and entry.model is not None)

    def _named(self, name: str, version: str | None) -> list[ManagedModel]:
        """The models of a name, the highest version first."""
        self._adopt()
        found = [
            model
            for model in self._models.values()
            if model.spec.name == name and version in (None, model.spec.version)
        ]
        if not found:
            what = "" if version is None else f"version {version[:MAX_SHOWN_CHARACTERS]!r} of a "
            raise NotFound(f"there is no {what}model {name[:MAX_SHOWN_CHARACTERS]!r}", param="model")
        return sorted(found, key=lambda model: -int(model.spec.version))

    def _adopt(self) -> None:
        """Takes in what was loaded into the registry by others."""
        if self._registry is None:
            return
        for entry in self._registry.index():
            if entry.config is not None and (entry.name, entry.version) not in self._models:
                spec = ModelSpec(name=entry.name, config=entry.config)
                model = ManagedModel(spec, wanted=entry.model is not None, reason=entry.reason)
                if entry.model is not None:
                    model.num_bytes = model.last_bytes = entry.model.pool.memory_bytes
                self._models[entry.name, entry.version] = model
