"""Classic models behind a server: trained here, or written in `oip_predictors`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

from quire.engine.batch_queue import BatchingConfig
from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.models.classic.predictor import LoadOptions

FEATURES = 4


def python_model(
    kind: str, version: str = "1", *, name: str | None = None, batching: BatchingConfig | None = None
) -> ClassicModelConfig:
    """A model of `oip_predictors`, named as its class in lower case."""
    options = LoadOptions(python_class=f"oip_predictors:{kind}")
    workers = WorkerConfig(path=Path("."), runtime="python", options=options)
    return ClassicModelConfig(name=name or kind.lower(), version=version, workers=workers, batching=batching)


def train_trees(folder: Path) -> Path:
    """A LightGBM model of a few trees."""
    import lightgbm

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, FEATURES))
    data = lightgbm.Dataset(rows, (rows[:, 0] > 0).astype(int))
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 7}, data, 5)
    path = folder / "trees.txt"
    booster.save_model(path)
    return path


@contextlib.asynccontextmanager
async def loaded(*configs: ClassicModelConfig) -> AsyncIterator[DataPlane]:
    """The models in their worker processes, which find `oip_predictors`."""
    before = os.environ.get("PYTHONPATH")
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [before])])
    plane = DataPlane(ModelRegistry())
    try:
        for config in configs:
            await plane.registry.load(config)
        yield plane
    finally:
        await plane.registry.close()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
