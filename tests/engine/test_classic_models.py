"""Classic models in worker processes: asked, crashed, killed, replaced and unloaded under traffic."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from quire.engine import classic_protocol
from quire.engine.batch_queue import BatchingConfig
from quire.engine.batcher import Padding
from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.errors import (
    EngineDied,
    EngineError,
    InvalidRequest,
    ModelError,
    ModelTooLarge,
    NotFound,
    Unavailable,
    UntrustedModel,
)
from quire.models.classic.predictor import LoadOptions


@pytest.fixture
async def plane(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DataPlane]:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]))
    plane = DataPlane(ModelRegistry())
    yield plane
    await plane.registry.close()


def scale(version: str = "1", *, name: str = "scale", batching: BatchingConfig | None = None, **options: Any):
    workers = {key: options.pop(key) for key in ("instances", "predict_timeout") if key in options}
    kind = options.pop("kind", "Scale")
    load = LoadOptions(python_class=f"owners_predictors:{kind}", parameters=options)
    config = WorkerConfig(path=Path("."), runtime="python", options=load, **workers)
    return ClassicModelConfig(name=name, version=version, workers=config, batching=batching)


def x(*values: float) -> dict[str, Any]:
    return {"x": np.array(values, np.float64)}


async def until_gone(pid: int) -> None:
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        await asyncio.sleep(0.02)


async def test_a_lightgbm_model_is_served_in_batches_as_the_library_computes_it(
    plane: DataPlane, tmp_path: Path
) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    rows = np.random.default_rng(0).normal(size=(100, 5))
    booster = lightgbm.train({"verbose": -1}, lightgbm.Dataset(rows, rows[:, 0]), 5)
    booster.save_model(tmp_path / "model.txt")
    await plane.registry.load(
        ClassicModelConfig(name="trees", workers=WorkerConfig(path=tmp_path / "model.txt"))
    )
    answers = await asyncio.gather(
        *(plane.infer("trees", None, {"input": row[None]}, ["output"], {}) for row in rows)
    )
    np.testing.assert_array_equal(np.concatenate([one["output"] for one in answers]), booster.predict(rows))
    assert plane.statistics("trees").num_executions < 20
    assert plane.metadata("trees").description.inputs[0].shape == (-1, 5)


async def test_texts_and_images_come_back_unchanged(plane: DataPlane) -> None:
    await plane.registry.load(scale(kind="Echo", name="echo"))
    inputs: dict[str, Any] = {
        "text": np.array([[b"", "grün".encode()], [b"\0x", b"a" * 1000]], dtype=object),
        "image": np.random.default_rng(0).integers(0, 256, (2, 1000, 3)).astype(np.uint8),
    }
    outputs = await plane.infer("echo", "1", inputs)
    assert outputs["text"].tolist() == inputs["text"].tolist()
    np.testing.assert_array_equal(outputs["image"], inputs["image"])


async def test_what_a_request_may_not_say_is_refused_by_name(plane: DataPlane) -> None:
    await plane.registry.load(scale())
    for wrong, text in (
        ({"inputs": {"z": np.zeros(1)}}, r"\['x'\] are missing"),
        ({"inputs": {"x": np.zeros(1, np.float32)}}, "FP64"),
        ({"outputs": ["q"] * 10_000}, r"no outputs \['q'\]"),
        ({"outputs": ["y"] * 10_000}, "twice"),
        ({"parameters": {"colour": 1}}, "colour"),
        ({"parameters": {"priority": "high"}}, "high"),
        ({"parameters": {"timeout": -1}}, "-1"),
    ):
        call: dict[str, Any] = {"inputs": x(1), **wrong}
        with pytest.raises(InvalidRequest, match=text):
            await plane.infer("scale", None, **call)
    with pytest.raises(NotFound, match="'absent'"):
        await plane.infer("absent", None, x(1))
    with pytest.raises(NotFound, match="'7'"):
        await plane.infer("scale", "7", x(1))
    assert list(await plane.infer("scale", None, x(1), ["y"])) == ["y"]


async def test_a_request_that_raises_or_kills_its_process_fails_alone(plane: DataPlane) -> None:
    await plane.registry.load(scale())
    (pid,) = plane.registry.get("scale").pool.worker_pids()
    values = [1.0, 500.0, 2.0, 666.0, 3.0, 4.0]
    results = await asyncio.gather(
        *(plane.infer("scale", None, x(value)) for value in values), return_exceptions=True
    )
    for value, result in zip(values, results, strict=True):
        if value == 500:
            assert isinstance(result, EngineError)
            assert "500 is not allowed" in str(result)
        elif value == 666:
            assert isinstance(result, EngineDied)
        else:
            assert isinstance(result, dict)
            assert result["y"].tolist() == [2 * value]
    answer = await plane.infer("scale", None, x(5))
    assert answer["y"].tolist() == [10.0]
    assert answer["pid"][0] != pid


async def test_a_worker_that_hangs_is_killed_and_replaced(plane: DataPlane) -> None:
    await plane.registry.load(scale(predict_timeout=0.5))
    (pid,) = plane.registry.get("scale").pool.worker_pids()
    with pytest.raises(EngineDied, match=r"0\.5 s"):
        await plane.infer("scale", None, x(-1000))
    await until_gone(pid)
    assert (await plane.infer("scale", None, x(1)))["y"].tolist() == [2.0]


async def test_a_worker_killed_between_requests_is_replaced_and_nothing_fails(plane: DataPlane) -> None:
    await plane.registry.load(scale(instances=2))
    model = plane.registry.get("scale")
    pids = model.pool.worker_pids()
    assert len(set(pids)) == 2
    os.kill(pids[0], signal.SIGKILL)
    while model.pool.num_restarts < 1:
        answers = await asyncio.gather(*(plane.infer("scale", None, x(n)) for n in range(3)))
        assert [one["y"][0] for one in answers] == [0.0, 2.0, 4.0]
    assert pids[0] not in model.pool.worker_pids()
    assert plane.ready("scale")


async def test_loading_warms_up_and_unloading_tells_the_model(plane: DataPlane, tmp_path: Path) -> None:
    log = tmp_path / "log"
    await plane.registry.load(scale(log=str(log)))
    assert log.read_text() == "predict [0.0]\n"
    (pid,) = plane.registry.get("scale").pool.worker_pids()
    slow = asyncio.ensure_future(plane.infer("scale", None, x(-0.2)))
    await asyncio.sleep(0.05)
    await plane.registry.unload("scale")
    assert (await slow)["y"].tolist() == [-0.4]
    assert log.read_text().endswith("unload\n")
    assert not psutil.pid_exists(pid)
    assert not plane.ready("scale")
    with pytest.raises(Unavailable, match="unloaded"):
        await plane.infer("scale", None, x(1))
    assert [(e.version, e.state, e.reason) for e in plane.registry.index()] == [
        ("1", "unavailable", "unloaded")
    ]


async def test_models_are_replaced_under_traffic_and_no_request_fails(plane: DataPlane) -> None:
    await plane.registry.load(scale(factor=2.0))
    seen: list[float] = []
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            seen.append(float((await plane.infer("scale", None, x(1.0)))["y"][0]))

    clients = [asyncio.ensure_future(client()) for _ in range(4)]
    await plane.registry.load(scale(factor=3.0))
    await plane.registry.load(scale("2", factor=4.0))
    await plane.registry.unload("scale", "1")
    await plane.infer("scale", None, x(1.0))
    stop.set()
    await asyncio.gather(*clients)
    assert set(seen) == {2.0, 3.0, 4.0}
    assert seen == sorted(seen)
    with pytest.raises(Unavailable):
        await plane.infer("scale", "1", x(1))


async def test_a_model_that_cannot_be_loaded_says_why_and_the_old_one_serves_on(
    plane: DataPlane, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="SIGSEGV"):
        await plane.registry.load(scale(name="crash", crash=True))
    (entry,) = plane.registry.index()
    assert entry.state == "unavailable"
    assert "SIGSEGV" in entry.reason
    pickled = tmp_path / "model.pkl"
    pickled.write_bytes(b"cos\nsystem\n(S'touch touched'\ntR.")
    with pytest.raises(UntrustedModel, match="digest"):
        await plane.registry.load(ClassicModelConfig(name="pickle", workers=WorkerConfig(path=pickled)))

    await plane.registry.load(scale())
    with pytest.raises(ModelError, match="SIGSEGV"):
        await plane.registry.load(scale(crash=True))
    assert (await plane.infer("scale", None, x(1)))["y"].tolist() == [2.0]
    assert plane.ready("scale")


async def test_settings_that_do_not_fit_the_model_are_refused(plane: DataPlane) -> None:
    config = scale()
    wrong = ClassicModelConfig(
        name="scale", workers=config.workers, batching=BatchingConfig(), padding=Padding(values={"q": 0})
    )
    with pytest.raises(ModelError, match=r"\['q'\]"):
        await plane.registry.load(wrong)
    with pytest.raises(ValueError, match="version"):
        scale("latest")
    with pytest.raises(ValueError, match="min_ready_instances"):
        WorkerConfig(path=Path("."), instances=1, min_ready_instances=2)


async def test_the_least_recently_used_model_makes_room(plane: DataPlane) -> None:
    await plane.registry.load(scale(name="a"))
    size = plane.registry.get("a").pool.memory_bytes
    plane.registry.memory_budget = int(2.5 * size)
    await plane.registry.load(scale(name="b"))
    await plane.infer("a", None, x(1))
    await plane.registry.load(scale(name="c"))
    states = {entry.name: entry.state for entry in plane.registry.index()}
    assert states == {"a": "ready", "b": "unavailable", "c": "ready"}
    with pytest.raises(Unavailable, match="make room for c"):
        await plane.infer("b", None, x(1))
    plane.registry.memory_budget = size // 2
    with pytest.raises(ModelTooLarge, match="memory budget"):
        await plane.registry.load(scale(name="d"))


async def test_a_worker_dies_with_its_parent_even_in_the_middle_of_a_batch(plane: DataPlane) -> None:
    code = """
import asyncio, os, sys
from pathlib import Path
import numpy as np
from quire.engine.classic_workers import Worker, WorkerConfig
from quire.models.classic.predictor import LoadOptions

async def main():
    options = LoadOptions(python_class="owners_predictors:Scale")
    worker = await Worker.spawn(WorkerConfig(path=Path("."), runtime="python", options=options))
    asyncio.ensure_future(worker.predict({"x": np.array([-1000.0])}))
    await asyncio.sleep(0.1)
    print(worker.process.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], stdout=subprocess.PIPE, check=False
    )
    await until_gone(int(done.stdout))


def test_tensors_of_every_datatype_survive_the_wire() -> None:
    arrays: dict[str, Any] = {
        kind: np.arange(6).reshape(2, 3).astype(dtype)
        for kind, dtype in classic_protocol.DTYPES.items()
        if kind != "BYTES"
    }
    arrays |= {"BYTES": np.array([[b"a", b""]], dtype=object), "empty": np.zeros((0, 4), np.int16)}
    arrays["big"] = arrays["FP64"].astype(">f8")
    whole = bytearray(b"".join(classic_protocol.frame({"kind": "x"}, arrays)))
    head_size, size = classic_protocol.LENGTHS.unpack_from(whole)
    body = whole[classic_protocol.LENGTHS.size :]
    assert len(body) == head_size + size
    head, back = classic_protocol.parse(body, head_size)
    assert head == {"kind": "x"}
    for name, array in arrays.items():
        assert back[name].tolist() == array.tolist()
        assert back[name].shape == array.shape
