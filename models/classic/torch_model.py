"""PyTorch programs: torch.export's .pt2, and TorchScript's .pt.

Both need the owner's trust and a digest. A .pt2 looks like data, but torch reads parts of it with an
unrestricted unpickler, and its symbolic sizes by evaluating text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from ...errors import EngineError, ModelError
from .digests import check_trusted
from .predictor import (
    Array,
    Arrays,
    Description,
    LoadOptions,
    Predictor,
    TensorSpec,
    as_outputs,
)


class TorchPredictor(Predictor):
    """Inputs are passed in the order in which the configuration names them.

    A program gives one tensor, or a sequence of them, or a dict of them by name.
    """

    def __init__(self, module: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self._module: Any = module
        batched = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
        self._description = Description(inputs, outputs, batched)

    @classmethod
    def load(cls, path: Path, options: LoadOptions) -> Self:
        """Loads a trusted .pt2 or .pt; see `Predictor.load`. It runs on the CPU."""
        exported = path.suffix.lower() == ".pt2"
        check_trusted(path, options, "a torch.export archive" if exported else "TorchScript")
        if not options.inputs or not options.outputs:
            raise ModelError(f"{path} does not name its tensors; say what its inputs and outputs are")
        if strings := [spec.name for spec in (*options.inputs, *options.outputs) if spec.datatype == "BYTES"]:
            raise ModelError(f"{path}: {strings} are BYTES, which torch has no tensors of")
        import torch

        torch.set_num_threads(options.num_threads)
        try:
            if exported:
                module = torch.export.load(path).module()
            else:
                module = torch.jit.load(str(path), map_location="cpu").eval()
        except Exception as error:
            # torch reads archives with asserts, lookups and parsers: any kind of error may come.
            raise ModelError(f"{path} cannot be loaded: {type(error).__name__}: {error}") from error
        return cls(module, tuple(options.inputs), tuple(options.outputs))

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Runs the program."""
        import torch

        # Arrays that came over a socket are read-only, and torch takes only what it could write.
        tensors = [torch.tensor(inputs[spec.name]) for spec in self._description.inputs]
        with torch.inference_mode():
            result = self._module(*tensors)
        specs = self._description.outputs
        if isinstance(result, dict):
            if missing := [spec.name for spec in specs if spec.name not in result]:
                raise EngineError(f"the model did not give the outputs {missing}")
            result = [result[spec.name] for spec in specs]
        elif isinstance(result, torch.Tensor):
            result = [result]
        return as_outputs(specs, [tensor.numpy() for tensor in result])

    def describe(self) -> Description:
        """As configured."""
        return self._description

    def unload(self) -> None:
        """Frees the program."""
        self._module = None
