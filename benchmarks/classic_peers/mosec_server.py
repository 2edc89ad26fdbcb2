"""mosec's side of `classic_versus.py`: its front end in Rust, one Python worker that gets batches."""

import os
from typing import Any

import lightgbm
import numpy as np
from mosec import Server, Worker


class Trees(Worker):
    """Single rows, batched."""

    def __init__(self) -> None:
        super().__init__()
        self.booster = lightgbm.Booster(model_file=os.environ["MODEL"])

    def forward(self, data: list[Any]) -> list[Any]:
        """The model's output for each request's rows."""
        rows = np.concatenate([np.asarray(one["rows"], np.float64) for one in data])
        outputs = self.booster.predict(rows, num_threads=1)
        ends = np.cumsum([len(one["rows"]) for one in data])[:-1]
        return [part.tolist() for part in np.split(outputs, ends)]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Trees, num=1, max_batch_size=64, max_wait_time=1)
    server.run()
