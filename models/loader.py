"""Filling a model from safetensors, one matrix at a time, or with random weights for measuring.

All names, shapes and dtypes are compared with the model's before any memory is taken for it. Then each
matrix is read from the mapped file, brought into the form in which it will run (rounded to integers if
that is asked for, and repacked by the kernel that will read it), and only then the next one is read, so
that loading needs little more memory than the model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ..errors import ModelError
from ..kernels import ops
from ..kernels.types import LinearWeight
from .causal_lm import CausalLM
from .config import ModelConfig
from .encoder import Encoder
from .footprint import is_head, rounding_of
from .layers import Matrix
from .matching import heads_differ, match
from .packed_file import DamagedFile, packed_bytes, read_tied
from .parallel import Ranks, RowParallelLinear
from .quant.canonical import Rows, can_stack, dense_rows, quantize, rows_per_chunk, stack
from .quant.options import WeightOptions, check_options
from .registry import model_class
from .safetensors_reader import stored_tensors, weight_files
from .sharding import SINGLE, ShardedWeights, cut_columns, shard_model
from .sources import Noise, StoredWeights, WeightSource
from .text_model import TextModel
from .weight_cache import CacheEntry, WeightCache

logger = logging.getLogger(__name__)

DEFAULT_OPTIONS = WeightOptions()


def load_model(
    folder: Path,
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    options: WeightOptions = DEFAULT_OPTIONS,
    load_format: Literal["auto", "dummy"] = "auto",
    seed: int = 0,
    progress: bool = False,
    max_model_len: int | None = None,
    cache: WeightCache | None = None,
    ranks: Ranks = SINGLE,
) -> CausalLM:
    """Builds a decoder and fills it.

    Args:
        folder: A checkpoint in Hugging Face format; not looked at for "dummy".
        config: The checkpoint's configuration.
        device: Where the model shall live.
        dtype: What its float weights and activations shall be, whatever the checkpoint's are.
        options: The format of its matrices.
        load_format: "auto" reads safetensors, "dummy" fills in random numbers.
        seed: Of the random numbers.
        progress: Whether to draw a bar.
        max_model_len: The longest sequence, `config.context_length` by default. The rotary table
            is as long, and dynamic scaling depends on it.
        cache: Where the weights that CPU kernels repack are kept, or None. It holds whole models only.
        ranks: Those that share the model, of which this one's part is built.

    Raises:
        UntrustedModel: The weights are pickles.
        ModelError: A file is malformed, or a tensor is missing, unexpected or misshapen, or an option
            does not suit the checkpoint.
    """
    model = _load(
        folder,
        config,
        device=device,
        dtype=dtype,
        options=options,
        load_format=load_format,
        seed=seed,
        progress=progress,
        max_model_len=max_model_len,
        cache=cache,
        ranks=ranks,
    )
    if not isinstance(model, CausalLM):
        raise ModelError(f"{config.architecture} is an encoder, which generates no text")
    return model


def load_encoder(
    folder: Path,
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    options: WeightOptions = DEFAULT_OPTIONS,
    load_format: Literal["auto", "dummy"] = "auto",
    seed: int = 0,
    progress: bool = False,
    max_model_len: int | None = None,
    cache: WeightCache | None = None,
) -> Encoder:
    """Builds an encoder and fills it; arguments and errors as of `load_model`."""
    model = _load(
        folder,
        config,
        device=device,
        dtype=dtype,
        options=options,
        load_format=load_format,
        seed=seed,
        progress=progress,
        max_model_len=max_model_len,
        cache=cache,
        ranks=SINGLE,
    )
    if not isinstance(model, Encoder):
        raise ModelError(f"{config.architecture} is no encoder")
    return model


def _load(
    folder: Path,
    config: ModelConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    options: WeightOptions,
    load_format: Literal["auto", "dummy"],
    seed: int,
    progress: bool,
    max_model_len: int | None,
    cache: WeightCache | None,
    ranks: Ranks,
) -> TextModel:
    max_len = max_model_len or config.context_length
    target = torch.device(device)
    if load_format == "dummy":
        check_options(config, options)
        return _filled(config, Noise(config, seed, target), target, dtype, max_len, options, ranks, progress)
    entry = None
    if cache is not None and packs(target, dtype) and ranks.size == 1:
        entry = cache.entry(weight_files(folder), config, dtype, options)
        model = _from_cache(entry, config, dtype, options, max_len)
        if model is not None:
            return model
    stored = stored_tensors(folder)
    if config.tie_word_embeddings and heads_differ(stored):
        logger.warning("config.json ties lm_head to the embeddings, but they differ: not tied")
        config = replace(config, tie_word_embeddings=False)
    check_options(config, options)
    source = StoredWeights(match(_build(config, "meta", dtype, 1), stored, config))
    model = _filled(config, source, target, dtype, max_len, options, ranks, progress)
    if entry is not None:
        entry.store(model)
    return model


def _filled(
    config: ModelConfig,
    source: WeightSource,
    device: torch.device,
    dtype: torch.dtype,
    max_len: int,
    options: WeightOptions,
    ranks: Ranks,
    progress: bool,
) -> TextModel:
    """A rank's part of a model, from a source of the whole."""
    model = _build(config, device, dtype, max_len)
    with torch.device(device):
        placements = shard_model(model, ranks, options)
    if placements:
        source = ShardedWeights(source, placements)
    _Filler(model, source, device, options).fill(progress)
    return model


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether kernels repack matrices here in a form that is worth keeping on disk.

    A GPU repacks integer matrices in less time than it takes to read them from a file, and float ones not
    at all.
    """
    x = torch.empty(1, 8, dtype=dtype)
    weight = LinearWeight.from_dense(torch.empty(8, 8, dtype=dtype))
    return device.type == "cpu" and ops.linear.implementation(x, weight) is not ops.linear.reference


def _from_cache(
    entry: CacheEntry, config: ModelConfig, dtype: torch.dtype, options: WeightOptions, max_len: int
) -> TextModel | None:
    """The model from the cache, if it is there and whole."""
    path = entry.find()
    if path is None:
        return None
    try:
        if not read_tied(path):
            config = replace(config, tie_word_embeddings=False)
    except DamagedFile as error:
        entry.discard(path, str(error))
        return None
    model = _build(config, "cpu", dtype, max_len)
    if not entry.load(path, model, options):
        return None
    model.tie_weights()
    model.num_mapped_bytes = packed_bytes(model)
    logger.info("the repacked weights come from the cache: %s", path)
    return model


def _build(config: ModelConfig, device: torch.device | str, dtype: torch.dtype, max_len: int) -> TextModel:
    with torch.device(device):
        return model_class(config.architecture)(config, dtype, max_len)


class _Filler:
    """Fills one model from one source."""

    def __init__(
        self, model: TextModel, source: WeightSource, device: torch.device, options: WeightOptions
    ) -> None:
        self.model = model
        self.config = model.config
        self.dtype = model.dtype
        self.source = source
        self.device = device
        self.options = options
        self._scratch = torch.empty(0)

    @torch.no_grad()
    def fill(self, progress: bool) -> None:
        # The largest matrices come first: what bringing them into their form takes is free again for
        # the others.
        matrices = sorted(
            self.model.matrices(), key=lambda m: not (m.is_embedding or is_head(m, self.config))
        )
        for matrix in tqdm(matrices, desc="Loading weights", unit=" matrices", disable=not progress):
            matrix.owner.weight = self._weight(matrix)
        self.model.tie_weights()
        for name, tensor in self.model.vectors():
            tensor.copy_(self.source.vector(name, tuple(tensor.shape)))

    def _weight(self, matrix: Matrix) -> LinearWeight:
        """A matrix in the form in which it will run."""
        owner = matrix.owner
        rounding = rounding_of(matrix, self.config, self.options)
        if rounding is not None:
            # A scale may be that of a whole row, of which this rank has a part.
            columns = owner.bounds[-1] if isinstance(owner, RowParallelLinear) else owner.weight.in_features
            parts = [
                quantize(self._rows(name, rows, columns), rows, columns, rounding)
                for name, rows in matrix.parts.items()
            ]
            weight = stack(parts, tuple(matrix.parts))
        else:
            weight = self._as_stored(matrix, owner.weight.in_features)
        weight.int8_activations = weight.scales is not None and self.options.rounds_activations(
            self.device.type
        )
        if isinstance(owner, RowParallelLinear) and weight.scales is not None:
            weight = cut_columns(weight, owner, ", ".join(matrix.parts))
        repack = self._repacker(matrix, weight)
        if repack is not None:
            repack(weight, release=True)
        return weight

    def _as_stored(self, matrix: Matrix, columns: int) -> LinearWeight:
        integers = {name: self.source.integers(name, rows, columns) for name, rows in matrix.parts.items()}
        stored = [weight for weight in integers.values() if weight is not None]
        wants_float = is_head(matrix, self.config) and self.options.lm_head == "float"
        if len(stored) == len(integers) and can_stack(stored) and not wants_float:
            weight = stack(stored, tuple(matrix.parts))
            return self._to_device(weight)
        if stored and not wants_float:
            logger.warning(
                "%s run as one matrix, but the checkpoint stores them in different formats: as floats here",
                ", ".join(matrix.parts),
            )
        sources = {
            name: self._rows(name, rows, columns) if weight is None else dense_rows(weight)
            for (name, rows), weight in zip(matrix.parts.items(), integers.values(), strict=True)
        }
        return self._dense(matrix, sources, columns)

    def _dense(self, matrix: Matrix, sources: Mapping[str, Rows], columns: int) -> LinearWeight:
        """A float matrix from its parts, converted to the model's dtype."""
        num_rows = matrix.owner.weight.out_features
        is_packed_next = self._repacker(matrix, matrix.owner.weight) is not None
        if len(sources) == 1 and is_packed_next:
            (rows,) = sources.values()
            view = rows(0, num_rows)
            if view.dtype == self.dtype:
                return LinearWeight.from_dense(view)  # packed from the mapped file, without another copy
        data = self._buffer(num_rows, columns, is_packed_next)
        targets = data.split(list(matrix.parts.values()))
        for target, rows in zip(targets, sources.values(), strict=True):
            step = rows_per_chunk(columns)
            for start in range(0, len(target), step):
                chunk = target[start : start + step]
                chunk.copy_(rows(start, start + len(chunk)))
        return LinearWeight.from_dense(data)

    def _buffer(self, rows: int, columns: int, is_packed_next: bool) -> Tensor:
        """Memory for a float matrix; what is packed from it may be the same for all matrices.

        To take and give back such amounts for each would leave holes between those that stay.
        """
        if not is_packed_next:
            return torch.empty(rows, columns, dtype=self.dtype, device=self.device)
        if self._scratch.numel() < rows * columns:
            self._scratch = torch.empty(rows * columns, dtype=self.dtype, device=self.device)
        return self._scratch[: rows * columns].view(rows, columns)

    def _rows(self, name: str, num_rows: int, columns: int) -> Rows:
        rows = self.source.rows(name, num_rows, columns)
        return lambda start, stop: rows(start, stop).to(self.device)

    def _to_device(self, weight: LinearWeight) -> LinearWeight:
        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(self.device)

        return replace(
            weight,
            data=weight.data.to(self.device),
            scales=moved(weight.scales),
            zeros=moved(weight.zeros),
            order=moved(weight.order),
        )

    def _repacker(self, matrix: Matrix, weight: LinearWeight) -> Callable[..., Any] | None:
        """How the kernel that will read a matrix of this format repacks it, or None if it does not."""
        if matrix.is_experts:
            return None
        if matrix.is_embedding and not is_head(matrix, self.config):
            ids = torch.zeros(1, dtype=torch.int64, device=self.device)
            return ops.repacker(ops.embedding.implementation(ids, weight, self.dtype), weight.format)
        x = torch.empty(1, weight.in_features, dtype=self.dtype, device=self.device)
        return ops.repacker(ops.linear.implementation(x, weight), weight.format)
