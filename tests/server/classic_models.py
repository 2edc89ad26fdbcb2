"""Small real models behind the application: trained here, loaded into worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import numpy as np
import skops.io
from sklearn.linear_model import LogisticRegression

from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.models.classic.predictor import LoadOptions
from quire.server.app import create_app
from quire.server.settings import ServerSettings

from .conftest import Served
from .fake_engine import FakeEngine

FEATURES = 4
SPECIES = ("setosa", "versicolor", "virginica")


def rows(count: int, seed: int = 0) -> np.ndarray:
    """Examples."""
    return np.random.default_rng(seed).normal(size=(count, FEATURES))


def train_trees(path: Path) -> lightgbm.Booster:
    """A regression, as LightGBM's text."""
    examples = rows(200)
    booster = lightgbm.train({"verbose": -1}, lightgbm.Dataset(examples, examples @ [1, 2, 3, 4]), 10)
    booster.save_model(path)
    return booster


def train_species(path: Path) -> LogisticRegression:
    """A classifier with names for labels, as skops."""
    examples = rows(200)
    labels = np.array(SPECIES)[np.digitize(examples[:, 0], [-0.5, 0.5])]
    classifier = LogisticRegression().fit(examples, labels)
    skops.io.dump(classifier, path)
    return classifier


class Trained:
    """The models, and what they were trained as.

    `trees` has the versions 1 and 2, of which 2 is half as large a model; `species` classifies; `mixed` is
    `predictors:Mixed` and `image` is `predictors:Length`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trees = train_trees(folder / "trees.txt")
        self.trees.save_model(folder / "half.txt", num_iteration=5)
        self.species = train_species(folder / "species.skops")

    def configs(self) -> list[ClassicModelConfig]:
        """What a registry loads."""
        return [
            ClassicModelConfig(
                name="trees",
                version=version,
                labels=labels,
                workers=WorkerConfig(path=self.folder / file),
            )
            for version, file, labels in (("1", "trees.txt", ("stable",)), ("2", "half.txt", ("canary",)))
        ] + [
            ClassicModelConfig(name="species", workers=WorkerConfig(path=self.folder / "species.skops")),
            own("mixed", "Mixed"),
            own("image", "Length"),
        ]


def own(name: str, kind: str, **parameters: Any) -> ClassicModelConfig:
    """A predictor of `predictors.py`."""
    options = LoadOptions(python_class=f"predictors:{kind}", parameters=parameters)
    return ClassicModelConfig(
        name=name, workers=WorkerConfig(path=Path("."), runtime="python", options=options)
    )


@contextlib.asynccontextmanager
async def loaded(configs: list[ClassicModelConfig]) -> AsyncIterator[DataPlane]:
    """A data plane with models, while it lasts."""
    here = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, before]))
    plane = DataPlane(ModelRegistry())
    try:
        await asyncio.gather(*map(plane.registry.load, configs))
        yield plane
    finally:
        await plane.registry.close()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


@contextlib.asynccontextmanager
async def serving(plane: DataPlane, settings: ServerSettings | None = None) -> AsyncIterator[Served]:
    """The application over models, beside a language model called `fake`."""
    engine = FakeEngine()
    app = create_app(engine, settings, plane)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://quire") as client:
        try:
            yield Served(engine, app.state.context, client)
        finally:
            await engine.close_grammars()
