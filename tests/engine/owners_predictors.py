"""Predictors as a server's owner writes them, for the tests of worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from quire.models.classic.predictor import Array, Arrays, Description, LoadOptions, Predictor, TensorSpec


class Scale(Predictor):
    """y = factor · x; 666 kills its process, 500 raises, 777 takes 8 GiB, x negative sleeps -x seconds."""

    def __init__(self, factor: float, log: Path | None) -> None:
        self.factor = factor
        self.log = log

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Scale:
        if options.parameters.get("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        log = options.parameters.get("log")
        return cls(options.parameters.get("factor", 2.0), Path(log) if log else None)

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        x = inputs["x"]
        self.note(f"predict {x.tolist()}")
        if (x == 666).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (x == 500).any():
            raise ValueError("500 is not allowed")
        if (x == 777).any():
            np.ones(1 << 30)  # 8 GiB
        if (x < 0).any():
            time.sleep(-float(x.min()))
        return {"y": x * self.factor, "pid": np.full(len(x), os.getpid(), np.int64)}

    def describe(self) -> Description:
        outputs = TensorSpec("y", "FP64", (-1,)), TensorSpec("pid", "INT64", (-1,))
        return Description((TensorSpec("x", "FP64", (-1,)),), outputs)

    def unload(self) -> None:
        self.note("unload")

    def note(self, text: str) -> None:
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(text + "\n")


class Echo(Predictor):
    """Gives every input back."""

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Echo:
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        return dict(inputs)

    def describe(self) -> Description:
        specs = TensorSpec("text", "BYTES", (-1, 2)), TensorSpec("image", "UINT8", (-1, -1, 3))
        return Description(specs, specs)

    def unload(self) -> None:
        pass
