"""Classic models under load: swapped, corrupted, killed, cancelled and unloaded; nobody else notices."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from quire.engine.batch_queue import BatchingConfig
from quire.engine.classic_workers import Worker, WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.errors import EngineDied, EngineError, ModelError, Unavailable
from quire.models.classic.digests import sha256_of, sha256_of_all
from quire.models.classic.predictor import LoadOptions

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 5))


@pytest.fixture
async def plane(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DataPlane]:
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]))
    plane = DataPlane(ModelRegistry())
    yield plane
    await plane.registry.close()


def scale(factor: float, *, batching: BatchingConfig | None = None, **workers: Any) -> ClassicModelConfig:
    options = LoadOptions(python_class="owners_predictors:Scale", parameters={"factor": factor})
    config = WorkerConfig(path=Path("."), runtime="python", options=options, **workers)
    return ClassicModelConfig(name="scale", workers=config, batching=batching)


def x(*values: float) -> dict[str, Any]:
    return {"x": np.array(values, np.float64)}


class Load:
    """Clients that ask one after another until they are stopped; what any of them raises, `stop` raises."""

    def __init__(self, ask: Callable[[int], Awaitable[object]], clients: int = 8) -> None:
        self.num_answers = 0
        self._ask = ask
        self._is_over = False
        self._clients = [asyncio.create_task(self._client(number)) for number in range(clients)]

    async def _client(self, number: int) -> None:
        while not self._is_over:
            await self._ask(number)
            self.num_answers += 1

    async def more(self, answers: int) -> None:
        """Returns after so many more answers."""
        goal = self.num_answers + answers
        while self.num_answers < goal and not any(client.done() for client in self._clients):
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._clients)


# F6: each maker writes a model, and says which file of it holds the weights.


def lightgbm_model(folder: Path) -> tuple[Path, Path]:
    lightgbm = pytest.importorskip("lightgbm")
    booster = lightgbm.train({"verbose": -1}, lightgbm.Dataset(ROWS, ROWS[:, 0]), 5)
    booster.save_model(folder / "model.txt")
    return folder / "model.txt", folder / "model.txt"


def xgboost_model(folder: Path) -> tuple[Path, Path]:
    xgboost = pytest.importorskip("xgboost")
    xgboost.train({}, xgboost.DMatrix(ROWS, ROWS[:, 0]), 5).save_model(folder / "model.ubj")
    return folder / "model.ubj", folder / "model.ubj"


def skops_model(folder: Path) -> tuple[Path, Path]:
    skops_io = pytest.importorskip("skops.io")
    from sklearn.linear_model import LinearRegression

    skops_io.dump(LinearRegression().fit(ROWS, ROWS[:, 0]), folder / "model.skops")
    return folder / "model.skops", folder / "model.skops"


def onnx_model(folder: Path) -> tuple[Path, Path]:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weight = onnx.numpy_helper.from_array(ROWS[:5, :2].astype(np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["input", "w"], ["output"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name, size in (("input", 5), ("output", 2))
    ]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return folder / "model.onnx", folder / "w.bin"


def openvino_model(folder: Path) -> tuple[Path, Path]:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("openvino is not installed")
    document = """<net name="linear" version="11"><layers>
    <layer id="0" name="input" type="Parameter" version="opset1"><data shape="?,5" element_type="f32"/>
    <output><port id="0" precision="FP32" names="input"><dim>-1</dim><dim>5</dim></port></output></layer>
    <layer id="1" name="w" type="Const" version="opset1">
    <data element_type="f32" shape="5, 2" offset="0" size="40"/>
    <output><port id="0" precision="FP32"><dim>5</dim><dim>2</dim></port></output></layer>
    <layer id="2" name="product" type="MatMul" version="opset1">
    <data transpose_a="false" transpose_b="false"/>
    <input><port id="0" precision="FP32"><dim>-1</dim><dim>5</dim></port>
    <port id="1" precision="FP32"><dim>5</dim><dim>2</dim></port></input>
    <output><port id="2" precision="FP32" names="output"><dim>-1</dim><dim>2</dim></port></output></layer>
    <layer id="3" name="result" type="Result" version="opset1">
    <input><port id="0" precision="FP32"><dim>-1</dim><dim>2</dim></port></input></layer></layers>
    <edges><edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
    <edge from-layer="1" from-port="0" to-layer="2" to-port="1"/>
    <edge from-layer="2" from-port="2" to-layer="3" to-port="0"/></edges></net>"""
    (folder / "model.xml").write_text(document)
    (folder / "model.bin").write_bytes(ROWS[:5, :2].astype(np.float32).tobytes())
    return folder / "model.xml", folder / "model.bin"


MAKERS = [lightgbm_model, xgboost_model, skops_model, onnx_model, openvino_model]


@pytest.mark.parametrize("make", MAKERS)
async def test_flipped_and_truncated_weights_are_refused_and_the_old_ones_serve_on(
    plane: DataPlane, tmp_path: Path, make: Callable[[Path], tuple[Path, Path]]
) -> None:
    path, weights = make(tmp_path)
    digest = sha256_of(path) if path == weights else sha256_of_all([path, weights])

    def config(sha256: str | None) -> ClassicModelConfig:
        return ClassicModelConfig(
            name="m", workers=WorkerConfig(path=path, options=LoadOptions(sha256=sha256))
        )

    await plane.registry.load(config(digest))
    rows = ROWS.astype(np.float64 if make in (lightgbm_model, skops_model) else np.float32)
    expected = await plane.infer("m", None, {"input": rows[:8]})

    async def ask(number: int) -> None:
        answer = await plane.infer("m", None, {"input": rows[number][None]})
        for name, array in answer.items():
            np.testing.assert_allclose(array[0], expected[name][number], rtol=1e-6)

    load = Load(ask)
    whole = weights.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    for content in (bytes(flipped), whole[:-7], whole[: len(whole) // 2], b""):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match="sha256"):
            await plane.registry.load(config(digest))
        assert plane.ready("m")
        await load.more(10)
    for content in (whole[: len(whole) // 2], b""):  # without a digest their own format tells
        weights.write_bytes(content)
        with pytest.raises(ModelError, match="model"):
            await plane.registry.load(config(None))
        await load.more(10)
    weights.write_bytes(whole)
    await plane.registry.load(config(digest))
    await load.more(10)
    await load.stop()
    assert plane.statistics("m").num_failed == 0


async def test_hot_swaps_under_load_lose_nothing_and_every_answer_is_of_one_version(plane: DataPlane) -> None:
    await plane.registry.load(scale(1.0, instances=2))
    factors: set[float] = set()

    async def ask(number: int) -> None:
        answer = await plane.infer("scale", None, x(*range(1, 9)))
        (factor,) = set((answer["y"] / range(1, 9)).tolist())
        assert len(set(answer["pid"].tolist())) == 1
        factors.add(factor)

    load = Load(ask)
    for factor in (2.0, 3.0, 4.0):
        await plane.registry.load(scale(factor, instances=2))
        await load.more(30)
    await load.stop()
    assert factors == {1.0, 2.0, 3.0, 4.0}


async def test_workers_killed_under_load_are_replaced_and_no_request_fails(plane: DataPlane) -> None:
    await plane.registry.load(scale(2.0, instances=2, min_ready_instances=2))
    model = plane.registry.get("scale")

    async def ask(number: int) -> None:
        assert (await plane.infer("scale", None, x(number)))["y"].tolist() == [2.0 * number]

    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    load = Load(ask)
    for killed in range(1, 4):
        os.kill(rng.choice(model.pool.worker_pids()), signal.SIGKILL)
        while model.pool.num_ready == 2:
            await asyncio.sleep(0.001)
        assert not model.is_ready
        while model.pool.num_restarts < killed:
            await load.more(1)
        assert model.is_ready
    await load.stop()
    assert model.batcher.statistics.num_failed == 0


async def test_a_lone_request_whose_worker_is_killed_is_computed_by_the_next(plane: DataPlane) -> None:
    await plane.registry.load(scale(2.0))
    model = plane.registry.get("scale")
    request = asyncio.ensure_future(plane.infer("scale", None, x(-0.5)))
    while not model.batcher.statistics.num_executions:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    os.kill(model.pool.worker_pids()[0], signal.SIGKILL)
    assert (await request)["y"].tolist() == [-1.0]
    with pytest.raises(EngineDied):  # one that kills its worker itself is not tried for ever
        await plane.infer("scale", None, x(666))
    assert model.batcher.statistics.num_executions == 4


async def test_starting_a_worker_can_be_cancelled_at_any_moment(plane: DataPlane) -> None:
    before = set(psutil.Process().children())
    for turns in range(16):
        task = asyncio.ensure_future(Worker.spawn(scale(2.0).workers))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set(psutil.Process().children()) == before


async def test_a_worker_takes_no_more_memory_than_it_may(plane: DataPlane) -> None:
    await plane.registry.load(scale(2.0, memory_limit=1 << 30))
    model = plane.registry.get("scale")
    pids = model.pool.worker_pids()
    with pytest.raises(EngineError, match="Unable to allocate"):
        await plane.infer("scale", None, x(777))
    assert (await plane.infer("scale", None, x(1)))["y"].tolist() == [2.0]
    assert model.pool.worker_pids() == pids
    with pytest.raises(ValueError, match="memory_limit must be at least 1, not 0"):
        scale(2.0, memory_limit=0)


async def test_a_small_file_that_asks_for_gigabytes_is_refused(plane: DataPlane, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    size = onnx.numpy_helper.from_array(np.array([1 << 31], np.int64), "size")
    nodes = [
        onnx.helper.make_node("ConstantOfShape", ["size"], ["large"]),
        onnx.helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=1),
        onnx.helper.make_node("Add", ["input", "sum"], ["output"]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"])
        for name in ("input", "output")
    ]
    graph = onnx.helper.make_graph(nodes, "g", values[:1], values[1:], [size])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "bomb.onnx"
    path.write_bytes(model.SerializeToString())
    assert path.stat().st_size < 1000
    with pytest.raises(ModelError, match="warm-up"):
        await plane.registry.load(
            ClassicModelConfig(name="bomb", workers=WorkerConfig(path=path, memory_limit=1 << 30))
        )


async def test_failing_requests_are_found_by_bisection_and_fail_alone(plane: DataPlane) -> None:
    await plane.registry.load(scale(2.0))
    seed = random.randrange(2**32)
    print("seed", seed)
    values = [float(n) for n in range(61)] + [500.0] * 3
    random.Random(seed).shuffle(values)
    results = await asyncio.gather(
        *(plane.infer("scale", None, x(value)) for value in values), return_exceptions=True
    )
    for value, result in zip(values, results, strict=True):
        if value == 500:
            assert isinstance(result, EngineError)
        else:
            assert isinstance(result, dict)
            assert result["y"].tolist() == [2 * value]
    statistics = plane.statistics("scale")
    assert (statistics.num_failed, statistics.num_succeeded) == (3, 61)
    # Each culprit costs two executions for every halving on the way to it.
    assert statistics.num_executions <= 1 + 3 * 2 * math.log2(64)


async def test_cancelled_requests_leave_their_companions_alone(plane: DataPlane) -> None:
    await plane.registry.load(scale(2.0, instances=2, batching=BatchingConfig(max_batch_size=8)))
    pids = plane.registry.get("scale").pool.worker_pids()
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    num_cancelled = 0

    async def ask(value: int, patience: float | None) -> None:
        nonlocal num_cancelled
        task = asyncio.ensure_future(plane.infer("scale", None, x(value)))
        if patience is not None:
            await asyncio.wait([task], timeout=patience)
            if task.cancel():
                num_cancelled += 1
                with pytest.raises(asyncio.CancelledError):
                    await task
                return
        assert (await task)["y"].tolist() == [2.0 * value]

    await asyncio.gather(*(ask(value, rng.choice([None, 0, rng.random() * 0.02])) for value in range(499)))
    assert num_cancelled > 0
    statistics = plane.statistics("scale")
    assert statistics.num_failed == 0
    # One that is cancelled when it has been answered counts as answered.
    assert statistics.num_succeeded + statistics.num_cancelled == 499
    assert statistics.num_cancelled <= num_cancelled
    assert plane.registry.get("scale").pool.worker_pids() == pids


async def test_unloading_answers_what_was_let_in_and_refuses_what_comes(plane: DataPlane) -> None:
    await plane.registry.load(scale(2.0, batching=BatchingConfig(max_batch_size=1)))
    model = plane.registry.get("scale")
    let_in = [asyncio.ensure_future(plane.infer("scale", None, x(-0.01))) for _ in range(20)]
    await asyncio.sleep(0.02)
    unloading = asyncio.ensure_future(plane.registry.unload("scale"))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="unloaded"):
        await plane.infer("scale", None, x(1))
    with pytest.raises(Unavailable, match="unloaded"):
        await model.batcher.infer(x(1))  # one that had got hold of the model before
    assert not unloading.done()
    for answer in await asyncio.gather(*let_in):
        assert answer["y"].tolist() == [-0.02]
    await unloading
    assert not model.pool.worker_pids()
