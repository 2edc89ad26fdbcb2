"""The language models of a server, by the names that clients use."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import NotFound

if TYPE_CHECKING:
    from ..engine.async_engine import AsyncEngine
    from .engine_metrics import EngineMetrics
    from .metrics import Metrics

MAX_SHOWN_CHARACTERS = 200


class LanguageModel:
    """One that is served.

    Attributes:
        name: As clients name it.
        engine: Its engine, which stays its owner's to shut down.
        metrics: Its metrics.
        created: When it began to be served, in seconds since 1970.
        num_in_flight: Requests to it that are not over.
        last_used: When the last of them ended, on the monotonic clock; infinite while there are some.
    """

    def __init__(self, name: str, engine: AsyncEngine, metrics: EngineMetrics) -> None:
        self.name = name
        self.engine = engine
        self.metrics = metrics
        self.created = int(time.time())
        self.num_in_flight = 0
        self.last_used = 0.0
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def enter(self) -> None:
        """A request to it begins."""
        self.num_in_flight += 1
        self.last_used = math.inf
        self._is_idle.clear()

    def leave(self) -> None:
        """A request that has entered is over."""
        self.num_in_flight -= 1
        if not self.num_in_flight:
            self.last_used = time.monotonic()
            self._is_idle.set()

    async def wait_idle(self) -> None:
        """Returns when no request to it is open."""
        await self._is_idle.wait()


class LanguageModels:
    """All of them. The default one answers requests that name none.

    Args:
        metrics: Where each model's metrics are kept.

    Attributes:
        default_name: The default model's name; None for the one that came first.
        load: Called with the name of a model that is not here, before it is looked for again: loads it, if
            it is one that is loaded when it is needed.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.default_name: str | None = None
        self.load: Callable[[str], Awaitable[None]] | None = None
        self._metrics = metrics
        self._models: dict[str, LanguageModel] = {}

    def __iter__(self) -> Iterator[LanguageModel]:
        return iter(list(self._models.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __len__(self) -> int:
        return len(self._models)

    def add(self, name: str, engine: AsyncEngine) -> LanguageModel:
        """Serves a model from now on; one of the same name is not served any more."""
        model = LanguageModel(name, engine, self._metrics.add_engine(name, engine))
        self._models[name] = model
        return model

    def put(self, name: str, engine: AsyncEngine | None) -> Awaitable[None]:
        """Serves an engine under a name from now on, or none.

        What it returns is done when the requests to the engine that was served there before are over.
        """
        old = self._models.get(name)
        if engine is not None:
            self.add(name, engine)
        elif old is not None:
            self.remove(name)
        return _nothing() if old is None else old.wait_idle()

    def last_used(self, name: str) -> float:
        """When the last request to a model ended, on the monotonic clock; infinite while there are some."""
        return self.get(name).last_used

    def remove(self, name: str) -> LanguageModel:
        """Takes a model out: requests that are in it go on. Raises `NotFound`."""
        model = self.get(name)
        del self._models[name]
        self._metrics.remove_engine(name)
        return model

    def get(self, name: str | None) -> LanguageModel:
        """The model of a name, or the default one. Raises `NotFound`."""
        wanted = self._wanted(name)
        if wanted is None:
            raise NotFound("this server has no language model", param="model")
        model = self._models.get(wanted)
        if model is None:
            shown = repr(wanted)
            if len(wanted) > MAX_SHOWN_CHARACTERS:
                shown = f"of {len(wanted)} characters"
            here = ", ".join(map(repr, self._models)) or "no language model"
            raise NotFound(f"there is no model {shown}; this server has {here}", param="model")
        return model

    async def find(self, name: str | None) -> LanguageModel:
        """As `get`, and loads the model if it is one that is loaded when it is needed."""
        wanted = self._wanted(name)
        if wanted is not None and wanted not in self._models and self.load is not None:
            await self.load(wanted)
        return self.get(name)

    def _wanted(self, name: str | None) -> str | None:
        if name is not None:
            return name
        return self.default_name or next(iter(self._models), None)


async def _nothing() -> None:
    """Nobody has to be waited for."""
