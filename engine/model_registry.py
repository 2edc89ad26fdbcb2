"""Classic models by name and version: loaded, unloaded and replaced while requests run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import InvalidRequest, ModelError, ModelTooLarge, NotFound, QuireError, Unavailable
from ..models.classic.predictor import Description
from .batch_queue import BatchingConfig, QueuePolicy
from .batcher import Batcher, Padding
from .classic_workers import WorkerConfig, WorkerPool

logger = logging.getLogger(__name__)

DEFAULT_QUEUE_SIZE = 1024
"""Requests that may wait for a model whose owner says nothing of batching; more are refused."""

State = Literal["loading", "ready", "unavailable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicModelConfig:
    """A model of the server's owner.

    Attributes:
        name: As clients name it.
        workers: What is loaded, and how often.
        version: As clients name it: a whole number from 1.
        batching: By default batches of up to 64 rows, or none if the model has no batch dimension, and a
            queue of `DEFAULT_QUEUE_SIZE`.
        padding: What may be padded.
        labels: Names by which clients may ask for this version, such as "stable".
    """

    name: str
    workers: WorkerConfig
    version: str = "1"
    batching: BatchingConfig | None = None
    padding: Padding = field(default_factory=Padding)
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a model's name must not be empty")
        if not (self.version.isascii() and self.version.isdecimal() and int(self.version) > 0):
            raise ValueError(
                f"the version of {self.name} must be a whole number from 1, not {self.version!r}"
            )


class ServedModel:
    """A model that is loaded: its workers and its batcher. Make it with `ServedModel.start(config)`."""

    def __init__(self, config: ClassicModelConfig, pool: WorkerPool, batcher: Batcher) -> None:
        self.config = config
        self.pool = pool
        self.batcher = batcher

    @classmethod
    async def start(cls, config: ClassicModelConfig) -> ServedModel:
        """Loads a model.

        Raises:
            ModelError: It cannot be loaded, or the settings do not fit it.
        """
        pool = await WorkerPool.start(config.workers)
        try:
            batching = _batching(config, pool.description)
        except ModelError:
            await pool.stop()
            raise
        batcher = Batcher(
            batching, pool.execute, concurrency=config.workers.instances, padding=config.padding
        )
        return cls(config, pool, batcher)

    @property
    def is_ready(self) -> bool:
        """Whether as many workers can compute as must."""
        return self.pool.is_ready

    async def close(self) -> None:
        """Answers the requests that were let in, then ends the workers."""
        await self.batcher.close()
        await self.pool.stop()


def _batching(config: ClassicModelConfig, description: Description) -> BatchingConfig:
    if config.batching is None:
        policy = QueuePolicy(max_queue_size=DEFAULT_QUEUE_SIZE)
        batching = BatchingConfig(default_queue_policy=policy)
        return batching if description.batched else replace(batching, max_batch_size=0)
    if config.batching.max_batch_size and not description.batched:
        raise ModelError(f"{config.name} has no batch dimension: its max_batch_size must be 0")
    known = {spec.name for spec in description.inputs}
    results = {spec.name for spec in description.outputs}
    strangers = ({*config.padding.values, *config.padding.cut.values()} - known) | (
        config.padding.cut.keys() - results
    )
    if strangers:
        raise ModelError(f"the padding of {config.name} names tensors that it has not: {sorted(strangers)}")
    return config.batching


@dataclass(slots=True)
class Entry:
    """What the registry knows of one version of a model.

    Attributes:
        name: The model's.
        version: The version.
        state: Whether it can be asked.
        reason: Why not.
        config: What is loaded, or was, or can be.
        model: The loaded model, if it is.
        last_used: When it was asked last, on the monotonic clock.
    """

    name: str
    version: str
    state: State = "loading"
    reason: str = ""
    config: ClassicModelConfig | None = None
    model: ServedModel | None = None
    last_used: float = 0.0


class ModelRegistry:
    """All classic models.

    Args:
        memory_budget: Bytes that all models' processes may take; the least recently used are unloaded
            when a new one does not fit. None is no budget.

    Attributes:
        make_room: Called before a model that has been loaded is taken in, with the model's entry and its
            bytes, instead of looking at the budget: whoever shares the memory with others says what goes.
    """

    def __init__(self, memory_budget: int | None = None) -> None:
        if memory_budget is not None and memory_budget < 1:
            raise ValueError(f"memory_budget must be at least 1, not {memory_budget}")
        self.memory_budget = memory_budget
        self.make_room: Callable[[Entry, int], Awaitable[None]] | None = None
        self._entries: dict[tuple[str, str], Entry] = {}
        self._by_name: dict[str, list[Entry]] = {}  # the highest version first
        self._loading: set[tuple[str, str]] = set()
        self._defaults: dict[str, str] = {}

    def declare(self, config: ClassicModelConfig, reason: str = "not loaded") -> None:
        """Lets a model be known before it is loaded; one that is known gets the settings of its next loading.

        Args:
            config: The model.
            reason: Why it cannot be asked.
        """
        is_new = (config.name, config.version) not in self._entries
        entry = self._entry(config.name, config.version)
        if is_new:
            entry.state, entry.reason = "unavailable", reason
        if entry.model is None:
            entry.config = config

    def forget(self, name: str, version: str) -> None:
        """Lets a model that is not loaded be unknown again.

        Raises:
            InvalidRequest: It is loaded, or being loaded.
        """
        entry = self._entries.get((name, version))
        if entry is None:
            return
        if entry.model is not None or (name, version) in self._loading:
            raise InvalidRequest(f"version {version} of {name} is loaded; unload it first", param="model")
        del self._entries[name, version]
        self._by_name[name].remove(entry)
        if not self._by_name[name]:
            del self._by_name[name]
        if self._defaults.get(name) == version:
            del self._defaults[name]

    async def load(self, config: ClassicModelConfig) -> None:
        """Loads a model, or loads it anew: what was loaded serves until the new one is ready.

        Raises:
            ModelError: It cannot be loaded, or does not fit the budget.
            InvalidRequest: It is being loaded.
        """
        key = config.name, config.version
        if key in self._loading:
            raise InvalidRequest(f"version {config.version} of {config.name} is being loaded", param="model")
        entry = self._entry(*key)
        self._loading.add(key)
        entry.config = config
        if entry.model is None:
            entry.state, entry.reason = "loading", ""
        try:
            model = await ServedModel.start(config)
            try:
                await self._make_room(entry, model)
            except ModelError:
                await model.close()
                raise
        except BaseException as error:
            if entry.model is None:
                entry.state = "unavailable"
                entry.reason = error.message if isinstance(error, QuireError) else type(error).__name__
            raise
        finally:
            self._loading.discard(key)
        old, entry.model = entry.model, model
        entry.config = config
        entry.state, entry.reason = "ready", ""
        self._use(entry)
        if old is not None:
            await old.close()

    async def unload(self, name: str, version: str | None = None) -> None:
        """Unloads a version, or all; the requests that were let in are answered first.

        Raises:
            NotFound: There is no such model.
            InvalidRequest: It is being loaded.
        """
        entries = self._named(name, version)
        for entry in entries:
            if (entry.name, entry.version) in self._loading:
                raise InvalidRequest(f"version {entry.version} of {name} is being loaded", param="model")
        for entry in entries:
            await self._unload(entry, "unloaded")

    async def close(self) -> None:
        """Unloads everything."""
        await asyncio.gather(*(self._unload(entry, "unloaded") for entry in self._entries.values()))

    def get(self, name: str, version: str | None = None) -> ServedModel:
        """The model to ask: the version, or the chosen one, or the highest that is ready.

        Raises:
            NotFound: There is no such model.
            Unavailable: It is not loaded.
        """
        if version is None:
            version = self._defaults.get(name)
        # Where none is ready, processes are being restarted: the request waits for them.
        found: Entry | None = None
        for entry in self._by_name.get(name, ()):
            if entry.model is not None and (version is None or version == entry.version):
                if entry.model.is_ready:
                    found = entry
                    break
                found = found or entry
        if found is not None and found.model is not None:
            self._use(found)
            return found.model
        entries = self._named(name, version)
        state = "being loaded" if entries[0].state == "loading" else f"unavailable: {entries[0].reason}"
        raise Unavailable(f"version {entries[0].version} of {name} is {state}")

    def set_default(self, name: str, version: str) -> None:
        """Has a version asked where none is named; until it is forgotten.

        Raises:
            NotFound: There is no such version.
        """
        self._named(name, version)
        self._defaults[name] = version

    def default_version(self, name: str) -> str | None:
        """The version that was chosen by `set_default`, if one was."""
        return self._defaults.get(name)

    def version_of(self, name: str, label: str) -> str:
        """The version that has a label; the highest, if there are several.

        Raises:
            NotFound: There is no such model, or no version of it has the label.
        """
        for entry in self._named(name, None):
            if entry.config is not None and label in entry.config.labels:
                return entry.version
        raise NotFound(f"no version of {name} has the label {label[:80]!r}", param="model")

    def entry(self, name: str, version: str) -> Entry | None:
        """What is known of a version, if anything is."""
        return self._entries.get((name, version))

    def index(self) -> Iterator[Entry]:
        """All versions of all models, with their states now."""
        for key in sorted(self._entries, key=lambda key: (key[0], int(key[1]))):
            entry = self._entries[key]
            if entry.model is not None:
                entry.state = "ready" if entry.model.is_ready else "unavailable"
                reason = entry.model.pool.failure or "its processes are being restarted"
                entry.reason = "" if entry.model.is_ready else reason
            yield entry

    def _named(self, name: str, version: str | None) -> list[Entry]:
        """The entries of a name, the highest version first."""
        entries = [entry for entry in self._by_name.get(name, ()) if version in (None, entry.version)]
        if not entries:
            what = f"model {name!r}" if version is None else f"version {version!r} of a model {name!r}"
            raise NotFound(f"there is no {what}", param="model")
        return entries

    def _entry(self, name: str, version: str) -> Entry:
        """The entry of a version, made if there is none."""
        entry = self._entries.get((name, version))
        if entry is None:
            entry = self._entries[name, version] = Entry(name, version)
            entries = self._by_name.setdefault(name, [])
            entries.append(entry)
            entries.sort(key=lambda entry: -int(entry.version))
        return entry

    def _use(self, entry: Entry) -> None:
        entry.last_used = time.monotonic()

    async def _make_room(self, new: Entry, model: ServedModel) -> None:
        """Unloads the least recently used models until the new one fits the budget."""
        budget, needed = self.memory_budget, model.pool.memory_bytes
        if self.make_room is not None:
            await self.make_room(new, needed)
            return
        if budget is None:
            return
        if needed > budget:
            raise ModelTooLarge(f"{new.name} takes {needed} bytes; the memory budget is {budget}")
        others = [entry for entry in self._entries.values() if entry is not new and entry.model is not None]
        others.sort(key=lambda entry: entry.last_used)
        for entry in others:
            taken = sum(one.model.pool.memory_bytes for one in others if one.model is not None)
            if taken + needed <= budget:
                break
            logger.info("version %s of %s makes room for %s", entry.version, entry.name, new.name)
            await self._unload(entry, f"unloaded to make room for {new.name}")

    async def _unload(self, entry: Entry, reason: str) -> None:
        model, entry.model = entry.model, None
        entry.state, entry.reason = "unavailable", reason
        if model is not None:
            await model.close()
