"""What the data plane of classic models costs: a LightGBM of 100 trees on 30 features, single rows.

    python benchmarks/classic.py [--clients 64] [--seconds 5] [--instances 1]

Closed loop: every client sends its next row when it has the answer to the last one. "queue and batch" has
a model that does nothing in this process: the batcher's own cost. "with the process" has the model in its
worker process, as it is served.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from quire.engine.batch_queue import BatchingConfig
from quire.engine.batcher import Array, Batcher
from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry

FEATURES, TREES = 30, 100
Infer = Callable[[dict[str, Array]], Awaitable[object]]


def train(path: Path) -> None:
    """Trains the model on noise with a bit of order in it."""
    import lightgbm

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, FEATURES))
    labels = (rows[:, :5].sum(axis=1) + rng.normal(size=5000) > 0).astype(int)
    booster = lightgbm.train(
        {"objective": "binary", "num_leaves": 31, "verbose": -1}, lightgbm.Dataset(rows, labels), TREES
    )
    booster.save_model(path)


async def drive(name: str, infer: Infer, clients: int, seconds: float) -> None:
    """Sends rows from `clients` clients, and prints how many were answered, and how fast."""
    rows = np.random.default_rng(1).normal(size=(256, 1, FEATURES))
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while (start := time.perf_counter()) < end:
            await infer({"input": rows[(number + len(latencies)) % len(rows)]})
            latencies.append(time.perf_counter() - start)

    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    wall = time.perf_counter() - began
    cpu = time.process_time() - cpu
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    print(
        f"{name:<18} {clients:4d} clients {len(latencies) / wall:8.0f} rows/s   p50 {p50:6.2f} ms   "
        f"p99 {p99:6.2f} ms   {cpu / len(latencies) * 1e6:6.1f} us of this process a request"
    )


async def main(arguments: argparse.Namespace) -> None:
    """Prints a line for each way and number of clients."""

    async def nothing(inputs: dict[str, Array]) -> dict[str, Array]:
        return {"output": np.zeros(len(inputs["input"]))}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.txt"
        train(path)
        registry = ModelRegistry()
        plane = DataPlane(registry)
        workers = WorkerConfig(path=path, instances=arguments.instances)
        await registry.load(ClassicModelConfig(name="trees", workers=workers))
        batcher = Batcher(BatchingConfig(), nothing)
        for clients in (1, arguments.clients):
            await drive("queue and batch", batcher.infer, clients, arguments.seconds)
            await drive(
                "with the process",
                lambda inputs: plane.infer("trees", None, inputs),
                clients,
                arguments.seconds,
            )
        statistics = plane.statistics("trees")
        print(f"rows a batch: {statistics.num_rows / statistics.num_executions:.1f}")
        await registry.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--instances", type=int, default=1)
    asyncio.run(main(parser.parse_args()))
