"""Which models are loaded, when, and which make room: engines without models, and classic models for real."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire.engine.classic_workers import WorkerConfig
from quire.engine.config import EngineConfig
from quire.engine.data_plane import DataPlane
from quire.engine.managed_model import ModelSpec
from quire.engine.model_manager import RETRY_SECONDS, ModelManager
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.errors import EngineError, ModelError, ModelTooLarge, NotFound, Unavailable
from quire.models.classic.predictor import LoadOptions


class Engine:
    """As much of an engine as the manager asks for."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.is_ready = True
        self.is_shut_down = False
        self.memory_bytes = config.num_blocks or 100

    async def shutdown(self) -> None:
        self.is_shut_down = True
        self.is_ready = False


class Host:
    """Serves engines; requests to them end when `idle` is set."""

    def __init__(self) -> None:
        self.engines: dict[str, Engine] = {}
        self.used: dict[str, float] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def add(self, name: str, engine: Any) -> None:
        self.engines[name] = engine

    def put(self, name: str, engine: Any) -> Awaitable[None]:
        if engine is None:
            del self.engines[name]
        else:
            self.add(name, engine)
        return self._wait()

    async def _wait(self) -> None:
        await self.idle.wait()

    def last_used(self, name: str) -> float:
        return self.used.get(name, 0.0)


class World:
    """A manager, and what it works with."""

    def __init__(self, budget: int | None = None) -> None:
        self.now = 100.0
        self.host = Host()
        self.started: list[str] = []
        self.all_engines: list[Engine] = []
        self.failure: Exception | None = None
        self.going = asyncio.Event()
        self.going.set()
        self.manager = ModelManager(memory_budget=budget, start_engine=self.start, clock=lambda: self.now)
        self.manager.connect(self.host)

    async def start(self, config: EngineConfig) -> Any:
        self.started.append(config.model_name)
        await self.going.wait()
        if self.failure is not None:
            raise self.failure
        engine = Engine(config)
        self.all_engines.append(engine)
        return engine

    def declare(self, name: str, num_bytes: int = 100, **settings: Any) -> None:
        config = EngineConfig(model=name, num_blocks=num_bytes)
        self.manager.declare(ModelSpec(name=name, config=config, **settings))

    def states(self) -> dict[str, str]:
        return {status.name: status.state for status in self.manager.index()}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.manager.close()


async def test_models_are_loaded_at_the_start_when_asked_for_or_by_hand(world: World) -> None:
    world.declare("first")
    world.declare("second")
    world.declare("later", load="on_demand")
    world.declare("never", load="manual")
    await world.manager.start()
    assert world.started == ["first", "second"]
    assert world.states() == {"first": "ready", "second": "ready", "later": "unloaded", "never": "unloaded"}
    await world.manager.ensure_engine("later")
    await world.manager.ensure_engine("first")
    assert world.started == ["first", "second", "later"]
    with pytest.raises(Unavailable, match="never is not loaded"):
        await world.manager.ensure_engine("never")
    await world.manager.load("never")
    await world.manager.ensure_engine("never")
    assert list(world.host.engines) == ["first", "second", "later", "never"]


async def test_a_model_that_nobody_knows(world: World) -> None:
    await world.manager.ensure_engine("x")  # there is nothing to load; the host says that there is none
    for ask in (world.manager.load, world.manager.unload, world.manager.forget, world.manager.ensure_classic):
        with pytest.raises(NotFound, match="there is no model 'x'"):
            await ask("x")
        with pytest.raises(NotFound, match="there is no version '2' of a model 'x'"):
            await ask("x", "2")
    assert not world.manager.knows("x")
    assert world.manager.index("x") == []


async def test_those_who_ask_at_once_have_it_loaded_once(world: World) -> None:
    world.declare("later", load="on_demand")
    world.going.clear()
    asked = [asyncio.create_task(world.manager.ensure_engine("later")) for _ in range(5)]
    while not world.started:
        await asyncio.sleep(0)
    assert world.states() == {"later": "loading"}
    asked[0].cancel()  # who gives up leaves the others theirs
    world.going.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, *[type(None)] * 4]
    assert world.started == ["later"]


async def test_a_model_that_cannot_be_loaded_is_tried_again_after_a_while(world: World) -> None:
    world.declare("later", load="on_demand")
    world.failure = ModelError("it is broken")
    for _ in range(3):
        with pytest.raises(Unavailable, match="later cannot be loaded: it is broken"):
            await world.manager.ensure_engine("later")
    assert len(world.started) == 1
    assert world.states() == {"later": "unavailable"}
    world.now += RETRY_SECONDS
    world.failure = None
    await world.manager.ensure_engine("later")
    assert world.states() == {"later": "ready"}


async def test_who_loads_by_hand_hears_what_is_wrong(world: World) -> None:
    world.declare("model", load="manual")
    world.failure = ModelError("it is broken")
    with pytest.raises(ModelError, match="it is broken"):
        await world.manager.load("model")
    (status,) = world.manager.index("model")
    assert (status.state, status.reason, status.wanted) == ("unavailable", "it is broken", False)


@pytest.mark.parametrize("failure", [ModelError("it is broken"), ValueError("no such setting")])
async def test_a_start_fails_with_the_first_model_that_cannot_be_loaded(
    world: World, failure: Exception
) -> None:
    world.declare("first")
    world.declare("second")
    world.failure = failure
    with pytest.raises(type(failure), match=str(failure)) as caught:
        await world.manager.start()
    if isinstance(failure, ModelError):
        assert caught.value.message == "first: it is broken"


async def test_unloading_waits_for_requests_and_frees_the_engine(world: World) -> None:
    world.declare("model")
    await world.manager.start()
    engine = world.host.engines["model"]
    world.host.idle.clear()
    unloading = asyncio.create_task(world.manager.unload("model"))
    while world.host.engines:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not engine.is_shut_down
    assert not unloading.done()
    world.host.idle.set()
    await unloading
    assert engine.is_shut_down
    assert world.states() == {"model": "unloaded"}
    with pytest.raises(Unavailable, match="model is unloaded"):
        await world.manager.ensure_engine("model")
    await world.manager.load("model")
    assert world.states() == {"model": "ready"}


async def test_a_model_that_is_loaded_anew_serves_until_the_new_one_is_there(world: World) -> None:
    world.declare("model")
    await world.manager.start()
    old = world.host.engines["model"]
    world.going.clear()
    loading = asyncio.create_task(world.manager.load("model"))
    while len(world.started) < 2:
        await asyncio.sleep(0)
    assert world.host.engines["model"] is old
    assert world.states() == {"model": "ready"}
    world.going.set()
    await loading
    assert world.host.engines["model"] is not old
    assert old.is_shut_down
    world.failure = ModelError("it is broken")
    with pytest.raises(ModelError):
        await world.manager.load("model")
    assert world.states() == {"model": "ready"}
    assert world.manager.not_ready() == []


async def test_a_model_that_is_loaded_on_demand_comes_back_after_it_was_unloaded(world: World) -> None:
    world.declare("later", load="on_demand")
    await world.manager.ensure_engine("later")
    await world.manager.unload("later")
    assert world.manager.not_ready() == []
    await world.manager.ensure_engine("later")
    assert world.started == ["later", "later"]


async def test_the_server_is_ready_when_all_models_are_that_should_be(world: World) -> None:
    world.declare("model")
    world.declare("later", load="on_demand")
    await world.manager.start()
    assert world.manager.not_ready() == []
    world.host.engines["model"].is_ready = False
    assert world.manager.not_ready() == ["model is unavailable: its engine is not ready"]
    await world.manager.unload("model")
    assert world.manager.not_ready() == []


async def test_a_forgotten_model_is_unknown(world: World) -> None:
    world.declare("model")
    await world.manager.start()
    await world.manager.forget("model")
    assert world.manager.index() == []
    assert world.all_engines[0].is_shut_down


async def test_the_least_recently_used_model_makes_room() -> None:
    world = World(budget=250)
    for name in ("a", "b", "c"):
        world.declare(name, load="on_demand")
        world.host.used[name] = 1.0
    await world.manager.ensure_engine("a")
    await world.manager.ensure_engine("b")
    world.host.used["a"] = 2.0
    await world.manager.ensure_engine("c")
    assert world.states() == {"a": "ready", "b": "unloaded", "c": "ready"}
    (status,) = world.manager.index("b")
    assert status.reason == "unloaded to make room for c"
    world.host.used["a"] = math.inf  # a request is running
    await world.manager.ensure_engine("b")
    assert world.states() == {"a": "ready", "b": "ready", "c": "unloaded"}
    await world.manager.close()
    assert all(engine.is_shut_down for engine in world.all_engines)


async def test_room_is_made_before_a_model_whose_size_is_known_is_loaded() -> None:
    world = World(budget=100)
    world.declare("a", load="on_demand")
    world.declare("b", load="on_demand")
    await world.manager.ensure_engine("a")
    await world.manager.ensure_engine("b")
    world.going.clear()
    again = asyncio.create_task(world.manager.ensure_engine("a"))
    while len(world.started) < 3:
        await asyncio.sleep(0)
    assert world.host.engines == {}
    world.going.set()
    await again
    await world.manager.close()


async def test_pinned_models_never_make_room() -> None:
    world = World(budget=250)
    world.declare("pinned")
    world.declare("kept", load="on_demand", pinned=True)
    world.declare("loose", load="on_demand")
    await world.manager.start()
    await world.manager.ensure_engine("loose")
    await world.manager.ensure_engine("kept")
    assert world.states() == {"pinned": "ready", "kept": "ready", "loose": "unloaded"}
    with pytest.raises(Unavailable, match="loose takes 100 bytes, and models that cannot be unloaded 200"):
        await world.manager.ensure_engine("loose")
    assert len(world.started) == 3  # its size is known: it need not be tried
    assert world.states()["kept"] == "ready"
    await world.manager.close()


async def test_a_model_that_made_room_comes_back_whenever_it_was_to_be_loaded() -> None:
    world = World(budget=100)
    world.declare("first", pinned=False)
    world.declare("second", load="manual")
    await world.manager.start()
    await world.manager.load("second")
    assert world.states() == {"first": "unloaded", "second": "ready"}
    assert world.manager.not_ready() == []
    await world.manager.ensure_engine("first")
    assert world.states() == {"first": "ready", "second": "unloaded"}
    await world.manager.close()


async def test_a_model_larger_than_the_budget_is_refused_and_nothing_goes_for_it() -> None:
    world = World(budget=150)
    world.declare("small", load="on_demand")
    world.declare("large", num_bytes=151, load="on_demand")
    await world.manager.ensure_engine("small")
    with pytest.raises(ModelTooLarge, match="large takes 151 bytes; the memory budget is 150"):
        await world.manager.load("large")
    assert world.states() == {"small": "ready", "large": "unavailable"}
    await world.manager.close()


async def test_what_is_being_loaded_is_given_up_when_all_ends(world: World) -> None:
    world.declare("later", load="on_demand")
    world.going.clear()
    asked = asyncio.create_task(world.manager.ensure_engine("later"))
    while not world.started:
        await asyncio.sleep(0)
    await world.manager.close()
    with pytest.raises(asyncio.CancelledError):
        await asked


def test_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="memory_budget must be at least 1, not 0"):
        ModelManager(memory_budget=0)
    with pytest.raises(ValueError, match="load must be one of start, on_demand, manual, got 'x'"):
        ModelSpec(name="x", config=EngineConfig(model="x"), load="x")  # type: ignore[arg-type]


def scale(version: str = "1", *, name: str = "scale", **parameters: Any) -> ClassicModelConfig:
    options = LoadOptions(python_class="owners_predictors:Scale", parameters=parameters)
    workers = WorkerConfig(path=Path("."), runtime="python", options=options)
    return ClassicModelConfig(name=name, version=version, workers=workers)


def x(value: float) -> dict[str, Any]:
    return {"x": np.array([value], np.float64)}


@pytest.fixture
async def classic(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[World, DataPlane]]:
    """A manager, and the data plane over its classic models."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]))
    world = World()
    registry = ModelRegistry()
    world.manager.use_registry(registry)
    plane = DataPlane(registry)
    plane.load = world.manager.ensure_classic
    yield world, plane
    await world.manager.close()


async def test_a_classic_model_is_loaded_when_it_is_asked_for(classic: tuple[World, DataPlane]) -> None:
    world, plane = classic
    world.manager.declare(ModelSpec(name="scale", config=scale("1"), load="on_demand"))
    world.manager.declare(ModelSpec(name="scale", config=scale("2", factor=5.0), load="on_demand"))
    await world.manager.start()
    assert [entry.state for entry in plane.registry.index()] == ["unavailable"] * 2
    assert (await plane.infer("scale", None, x(3)))["y"].tolist() == [15.0]
    assert [(each.version, each.state) for each in world.manager.index()] == [
        ("1", "unloaded"),
        ("2", "ready"),
    ]
    assert (await plane.infer("scale", "1", x(3)))["y"].tolist() == [6.0]
    assert (await plane.ensure("scale", "1")).config.version == "1"
    with pytest.raises(NotFound, match="there is no version '3' of a model 'scale'"):
        await plane.infer("scale", "3", x(3))
    with pytest.raises(NotFound, match="there is no model 'other'"):
        await plane.infer("other", None, x(3))


async def test_a_classic_model_is_unloaded_and_reports_its_state(classic: tuple[World, DataPlane]) -> None:
    world, plane = classic
    world.manager.declare(ModelSpec.of(scale()))
    await world.manager.start()
    (status,) = world.manager.index()
    assert (status.kind, status.state, status.wanted, status.pinned) == ("classic", "ready", True, True)
    assert status.memory_bytes > 1 << 20
    await world.manager.unload("scale")
    with pytest.raises(Unavailable, match="version 1 of scale is unloaded"):
        await plane.infer("scale", None, x(1))
    await world.manager.load("scale", "1")
    assert (await plane.infer("scale", None, x(1)))["y"].tolist() == [2.0]
    await world.manager.forget("scale")
    assert list(plane.registry.index()) == []


async def test_what_was_loaded_past_the_manager_is_known_to_it(classic: tuple[World, DataPlane]) -> None:
    world, plane = classic
    await plane.registry.load(scale())
    assert [(each.name, each.state) for each in world.manager.index()] == [("scale", "ready")]
    await world.manager.unload("scale", "1")
    await world.manager.load("scale")
    assert (await plane.infer("scale", None, x(1)))["y"].tolist() == [2.0]


async def test_a_classic_model_that_crashes_while_it_is_loaded(classic: tuple[World, DataPlane]) -> None:
    world, plane = classic
    world.manager.declare(ModelSpec(name="bad", config=scale(name="bad", crash=True), load="on_demand"))
    with pytest.raises(Unavailable, match=r"version 1 of bad cannot be loaded: .*SIGSEGV"):
        await plane.infer("bad", None, x(1))
    (status,) = world.manager.index("bad")
    assert status.state == "unavailable"
    assert "SIGSEGV" in status.reason


async def test_language_models_and_classic_ones_share_the_memory(classic: tuple[World, DataPlane]) -> None:
    world, plane = classic
    await plane.registry.load(scale())
    (status,) = world.manager.index()
    size = status.memory_bytes
    world.manager.declare(ModelSpec(name="scale", config=scale(), load="on_demand"))
    world.manager.memory_budget = 2 * size
    world.declare("chat", num_bytes=2 * size, load="on_demand")
    await world.manager.ensure_engine("chat")
    assert world.states() == {"scale": "unloaded", "chat": "ready"}
    assert (await plane.infer("scale", None, x(1)))["y"].tolist() == [2.0]
    assert world.states() == {"scale": "ready", "chat": "unloaded"}


def test_a_name_is_of_one_kind() -> None:
    manager = ModelManager()
    manager.declare(ModelSpec(name="scale", config=EngineConfig(model="x")))
    with pytest.raises(ValueError, match="'scale' is the name of a language model and of a classic model"):
        manager.declare(ModelSpec.of(scale()))


async def test_errors_that_are_not_quires_own_are_kept_short(world: World) -> None:
    world.declare("model", load="on_demand")
    world.failure = EngineError("the engine process ended with exit code 1 while starting")
    with pytest.raises(Unavailable, match="exit code 1"):
        await world.manager.ensure_engine("model")
