"""BentoML's side of `classic_versus.py`: `bentoml serve bentoml_service:Trees`, with its own batching."""

import os
from typing import Annotated

import bentoml
import lightgbm
import numpy as np
from bentoml.validators import DType, Shape


@bentoml.service(workers=1)
class Trees:
    """Single rows, batched."""

    def __init__(self) -> None:
        self.booster = lightgbm.Booster(model_file=os.environ["MODEL"])

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, rows: Annotated[np.ndarray, DType("float64"), Shape((-1, 30))]) -> np.ndarray:
        """The model's output for each row."""
        return self.booster.predict(rows, num_threads=1)
