"""Every worker of a classic model computes the warm-up requests before it is ready."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from quire.engine import classic_protocol
from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.errors import ModelError
from quire.models.classic.predictor import LoadOptions
from quire.models.classic.warm_up import WarmupInput, WarmupRequest


@pytest.fixture
async def plane(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DataPlane]:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]))
    plane = DataPlane(ModelRegistry())
    yield plane
    await plane.registry.close()


def scale(log: Path, *warmup: WarmupRequest, instances: int = 1) -> ClassicModelConfig:
    options = LoadOptions(python_class="owners_predictors:Scale", parameters={"log": str(log)})
    workers = WorkerConfig(
        path=Path("."), runtime="python", options=options, warmup=warmup, instances=instances
    )
    return ClassicModelConfig(name="scale", workers=workers)


async def test_every_worker_and_every_one_that_replaces_it_warms_up(plane: DataPlane, tmp_path: Path) -> None:
    log = tmp_path / "log"
    ones = WarmupRequest(inputs={"x": WarmupInput(values=1.0)}, batch_size=4, count=2)
    nothing = WarmupRequest(inputs={"x": WarmupInput(values=666.0)}, count=0)
    await plane.registry.load(scale(log, nothing, ones, WarmupRequest(), instances=2))
    once = ["predict [1.0, 1.0, 1.0, 1.0]"] * 2 + ["predict [0.0]"]
    assert sorted(log.read_text().splitlines()) == sorted(once * 2)
    pool = plane.registry.get("scale").pool
    log.unlink()
    os.kill(pool.worker_pids()[0], signal.SIGKILL)
    while pool.num_restarts < 1:
        await asyncio.sleep(0.01)
    # It counts as replaced only when it is ready, and it is ready only when it is warm.
    assert log.read_text().splitlines() == once


async def test_a_model_that_fails_on_its_warm_up_is_not_served(plane: DataPlane, tmp_path: Path) -> None:
    for value, text in ((500.0, "'cold'.*500 is not allowed"), (666.0, "SIGKILL")):
        request = WarmupRequest(name="cold", inputs={"x": WarmupInput(values=value)})
        with pytest.raises(ModelError, match=text):
            await plane.registry.load(scale(tmp_path / "log", request))
        assert not plane.ready("scale")
    with pytest.raises(ModelError, match="cold: the model has no inputs"):
        await plane.registry.load(
            scale(tmp_path / "log", WarmupRequest(name="cold", inputs={"z": WarmupInput()}))
        )
    await plane.registry.load(scale(tmp_path / "log"))
    np.testing.assert_array_equal((await plane.infer("scale", None, {"x": np.ones(1)}))["y"], [2.0])


def test_warm_up_requests_survive_the_wire() -> None:
    requests = [
        WarmupRequest(),
        WarmupRequest(
            name="all",
            inputs={
                "a": WarmupInput(fill="random", seed=3, shape=(2, 3)),
                "b": WarmupInput(values=[["x"], ["y"]]),
                "c": WarmupInput(file=Path("/models/c.raw"), shape=()),
            },
            others=WarmupInput(fill="random"),
            batch_size=8,
            count=3,
        ),
    ]
    sent = classic_protocol.frame({"warmup": classic_protocol.warmup_to_json(requests)})
    whole = bytearray(b"".join(sent))
    head_size, _ = classic_protocol.LENGTHS.unpack_from(whole)
    head, _ = classic_protocol.parse(whole[classic_protocol.LENGTHS.size :], head_size)
    assert classic_protocol.warmup_from_json(head["warmup"]) == requests
