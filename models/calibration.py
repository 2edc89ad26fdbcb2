"""Rounding a whole model with GPTQ, layer by layer, on what its matrices see of a text.

The hidden states of all windows are kept, and move through the model one decoder layer at a time: the
layer runs with the windows, each of its matrices collects what its inputs look like, all of them are
rounded, and the layer runs once more, as it is now. So the next layer is calibrated on what it will see,
the errors of all layers before it included, and at no time does more than one layer collect anything.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import ModelError
from ..kernels import reference
from ..kernels.types import AttentionMetadata, LinearWeight
from .causal_lm import CausalLM, DecoderLayer
from .layers import Layer, Linear, Matrix
from .quant.checkpoint_writer import WeightLayout
from .quant.gptq_quantizer import GptqOptions, QuantizedMatrix, quantize_matrix

BLOCK_SIZE = 16
"""Tokens per block of the cache that a window is computed with."""


def linears(layer: Layer, prefix: str = "") -> Iterator[tuple[str, Linear]]:
    """Yields the linear layers below a layer, by their names in it: `mlp.gate_up_proj`."""
    for name, child in layer.children():
        if isinstance(child, Linear):
            yield prefix + name, child
        else:
            yield from linears(child, f"{prefix}{name}.")


def float_modules(model: CausalLM, options: GptqOptions, layout: WeightLayout) -> set[str]:
    """The modules of decoder layers that a layout cannot store, by their names in their layer.

    Matrices of one input run as one, so all of them are integers or none, and that one is named, too:
    vLLM looks for `mlp.gate_up_proj`. So is a module that could be stored in some layers only.

    Raises:
        ModelError: It can store none.
    """
    found: set[str] = set()
    names: set[str] = set()
    for layer in model.model.layers:
        for name, linear in linears(layer):
            names.add(name)
            (matrix,) = linear.matrices(f"{name}.")
            columns = linear.weight.in_features
            if not all(layout.can_store(rows, columns, options) for rows in matrix.parts.values()):
                found |= {name, *matrix.parts}
    if names <= found:
        raise ModelError(
            f"the {layout.name} format cannot store any matrix of this model in {options.bits} bits with a "
            f"group size of {options.group_size}: nothing to quantize"
        )
    return found


class RecordingLinear(Linear):
    """Stands in for a linear layer, and adds up `x x^T` of all inputs x before it does the same.

    Attributes:
        hessian: fp32 `[K, K]`.
    """

    def __init__(self, linear: Linear) -> None:
        self.linear = linear
        columns = linear.weight.in_features
        self.hessian = torch.zeros(columns, columns)

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        rows = x.float()
        self.hessian.addmm_(rows.t(), rows)
        return self.linear(x, out)


@torch.inference_mode()
def quantize_model(
    model: CausalLM,
    windows: Sequence[Sequence[int]],
    options: GptqOptions,
    skipped: Set[str] = frozenset(),
    *,
    progress: bool = False,
) -> dict[str, QuantizedMatrix]:
    """Rounds the matrices of a model's decoder layers.

    Args:
        model: A float model on the CPU. Its matrices are replaced by what they are rounded to.
        windows: Token ids, none longer than the model's context.
        options: The format.
        skipped: Linear layers that stay as they are, by their names in their decoder layer.
        progress: Whether to draw a bar.

    Returns:
        The rounded modules by their names in the model.

    Raises:
        ModelError: A matrix cannot be rounded, naming it.
    """
    found: dict[str, QuantizedMatrix] = {}
    passes = LayerPasses(model, windows)
    layers = tqdm(model.model.layers, desc="Quantizing", unit=" layers", disable=not progress)
    for index, layer in enumerate(layers):
        chosen = {name: linear for name, linear in linears(layer) if name not in skipped}
        with recording(layer, list(chosen.values())) as recorders:
            passes.run(layer, keep=False)
        for (name, linear), recorder in zip(chosen.items(), recorders, strict=True):
            (matrix,) = linear.matrices(f"model.layers.{index}.{name}.")
            found |= _quantize(matrix, recorder.hessian, options, model.dtype)
        passes.run(layer, keep=True)
    return found


def _quantize(
    matrix: Matrix, hessian: Tensor, options: GptqOptions, dtype: torch.dtype
) -> dict[str, QuantizedMatrix]:
    """Rounds the parts of a matrix, and puts their values in its place."""
    dense = reference.dequantize(matrix.owner.weight)
    try:
        # Rows are rounded independently, and so the parts, which share their inputs, as one.
        whole = quantize_matrix(dense, hessian, options)
    except ModelError as error:
        raise ModelError(f"{', '.join(matrix.parts)}: {error.message}") from error
    matrix.owner.weight = LinearWeight.from_dense(whole.dense().to(dtype))
    sizes = list(matrix.parts.values())
    rows = zip(whole.q.split(sizes), whole.scales.split(sizes), whole.zeros.split(sizes), strict=True)
    return {
        name: QuantizedMatrix(whole.bits, q, scales, zeros, whole.g_idx)
        for name, (q, scales, zeros) in zip(matrix.parts, rows, strict=True)
    }


@contextmanager
def recording(layer: Layer, chosen: Sequence[Linear]) -> Generator[list[RecordingLinear]]:
    """Replaces some linear layers below a layer by recording ones, and puts them back in the end.

    Args:
        layer: The layer.
        chosen: The linear layers.

    Yields:
        The recording layers, in the order of those that they stand for.
    """
    recorders = {id(linear): RecordingLinear(linear) for linear in chosen}
    replaced = [
        (parent, name, recorders[id(child)])
        for parent in _with_descendants(layer)
        for name, child in vars(parent).items()
        if id(child) in recorders
    ]
    for parent, name, recorder in replaced:
        setattr(parent, name, recorder)
    try:
        yield list(recorders.values())
    finally:
        for parent, name, recorder in replaced:
            setattr(parent, name, recorder.linear)


def _with_descendants(layer: Layer) -> list[Layer]:
    return [layer, *(below for _, child in layer.children() for below in _with_descendants(child))]


class LayerPasses:
    """The hidden states of all windows, on their way through the model.

    Args:
        model: Gives the embedding and the rotary table.
        windows: Token ids. Each window is one sequence, computed in one pass.
    """

    def __init__(self, model: CausalLM, windows: Sequence[Sequence[int]]) -> None:
        config = model.config
        self._cos_sin = model.cos_sin
        embed = model.model.embed_tokens
        self._states: list[tuple[Tensor, Tensor | None]] = [
            (embed(torch.tensor(window, dtype=torch.int64)), None) for window in windows
        ]
        num_blocks = -(-max(map(len, windows)) // BLOCK_SIZE)
        # One cache for all layers and windows: a pass reads only what it has written itself.
        shape = (2, num_blocks, config.num_kv_heads, BLOCK_SIZE, config.head_size)
        self._kv_cache = torch.zeros(shape, dtype=model.dtype)

    def run(self, layer: DecoderLayer, *, keep: bool) -> None:
        """Runs a layer with all windows; with `keep`, its outputs take the place of its inputs."""
        for index, (x, residual) in enumerate(self._states):
            out = layer(x, residual, self._cos_sin, self._kv_cache, self._metadata(len(x)))
            if keep:
                self._states[index] = out

    def _metadata(self, length: int) -> AttentionMetadata:
        positions = torch.arange(length)
        return AttentionMetadata(
            positions=positions,
            slot_mapping=positions,
            query_start=torch.tensor([0, length], dtype=torch.int32),
            seq_lens=torch.tensor([length], dtype=torch.int32),
            block_tables=torch.arange(self._kv_cache.shape[1], dtype=torch.int32)[None],
            block_size=BLOCK_SIZE,
            max_query_len=length,
            max_seq_len=length,
        )
