"""Which part of a model each rank of tensor parallelism has, and cutting it out of a checkpoint.

    q, k, v      rows: whole heads; a KV head that several ranks' query heads read is at each of them
    gate, up     rows: a share of the MLP's channels
    o, down      columns: the same heads and channels
    embedding, output projection    rows: a share of the vocabulary
    norms, biases of o and down     whole at every rank

Integer matrices are cut anywhere by rows. By columns they are cut where a group begins, or where its half
or a smaller fraction does: then all groups become as small, and the parts of one repeat its scale, which
changes no value. Matrices whose columns are grouped in an order of their own (`activation_order`) are cut
in that order, and each rank picks its columns' inputs among those of all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import ModelError
from ..kernels.types import LinearWeight
from .causal_lm import CausalLM
from .config import ModelConfig
from .layers import Attention, Embedding, GatedMLP, Layer, Linear, MergedLinear, RMSNorm
from .parallel import Ranks, RowParallelLinear, VocabParallelEmbedding, VocabParallelHead
from .quant.canonical import INT4_ZERO, Rows
from .quant.config import EMBEDDING, LM_HEAD
from .quant.options import WeightOptions
from .sources import WeightSource
from .text_model import TextModel

COLUMN_MULTIPLE = 8
"""A group of columns has a multiple of so many: see `LinearWeight.group_size`."""

MLP_UNIT = 32
"""Channels of an MLP that stay together where there are enough: the kernels for CPUs pack as many rows."""

SINGLE = Ranks()
"""A model that is not cut."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where in a module of the checkpoint a rank's part of it lies.

    Attributes:
        num_rows: Of the whole module.
        num_columns: Of the whole module.
        rows: This rank's.
        columns: This rank's.
    """

    num_rows: int
    num_columns: int
    rows: range
    columns: range


def kv_heads_of(config: ModelConfig, size: int) -> int:
    """How many KV heads each of `size` ranks has. Raises `ModelError` if heads cannot be shared out."""
    first = "model.layers.0.self_attn"
    if config.num_heads % size:
        raise ModelError(
            f"{first}.q_proj has {config.num_heads} heads, which tensor_parallel_size={size} does not divide",
            param="tensor_parallel_size",
        )
    if config.num_kv_heads % size and size % config.num_kv_heads:
        raise ModelError(
            f"{first}.k_proj has {config.num_kv_heads} heads, which neither divide "
            f"tensor_parallel_size={size} nor are divided by it",
            param="tensor_parallel_size",
        )
    return max(1, config.num_kv_heads // size)


def check_ranks(config: ModelConfig, size: int) -> None:
    """Raises `ModelError` naming a tensor that cannot be shared out to so many ranks."""
    if size > 1 and (config.encoder or config.classifier):
        raise ModelError(
            f"tensor_parallel_size={size}: encoders and classifiers run in one process only",
            param="tensor_parallel_size",
        )
    kv_heads_of(config, size)
    for name, count in (
        (EMBEDDING, config.vocab_size),
        ("model.layers.0.mlp.down_proj", config.intermediate_size),
    ):
        if count < size:
            raise ModelError(
                f"{name} has {count} channels to share out, fewer than tensor_parallel_size={size}",
                param="tensor_parallel_size",
            )


def even_bounds(total: int, size: int, unit: int = 1) -> tuple[int, ...]:
    """Cuts `total` into `size` ranges as equal as whole units allow; their `size + 1` bounds."""
    units = -(-total // unit)
    return tuple(min(total, rank * units // size * unit) for rank in range(size + 1))


def shard_model(model: TextModel, ranks: Ranks, options: WeightOptions) -> dict[str, Placement]:
    """Makes a model that is not loaded yet into the part of it that is this rank's.

    Args:
        model: Its layers are changed; new tensors are made on torch's default device.
        ranks: Those that share it.
        options: The format of its matrices.

    Returns:
        What the loader must put where, by the checkpoint's names of the modules.

    Raises:
        ModelError: A layer cannot be cut, naming it.
    """
    if ranks.size == 1:
        return {}
    check_ranks(model.config, ranks.size)
    assert isinstance(model, CausalLM), "check_ranks lets decoders through"
    return _Cutter(model, ranks, options).cut()


class _Cutter:
    def __init__(self, model: CausalLM, ranks: Ranks, options: WeightOptions) -> None:
        self.model = model
        self.config = model.config
        self.ranks = ranks
        self.options = options
        self.placements: dict[str, Placement] = {}

    def cut(self) -> dict[str, Placement]:
        model, rank = self.model, self.ranks.rank
        decoder = model.model
        self._visit(model, "")
        bounds = even_bounds(self.config.vocab_size, self.ranks.size)
        rows = range(bounds[rank], bounds[rank + 1])
        for name, whole in ((EMBEDDING, decoder.embed_tokens), (LM_HEAD, model.lm_head)):
            self._place(name, whole, rows=rows)
        decoder.embed_tokens = VocabParallelEmbedding(decoder.embed_tokens, rows, self.ranks)
        model.lm_head = VocabParallelHead(model.lm_head, bounds, self.ranks)
        return self.placements

    def _visit(self, layer: Layer, prefix: str) -> None:
        for name, child in layer.children():
            path = prefix + name
            # A subclass computes something else, which may need the whole.
            if type(child) is Attention:
                self._attention(child, path)
            elif type(child) is GatedMLP:
                self._mlp(child, path)
            elif isinstance(child, Linear | Embedding):
                if path not in (EMBEDDING, LM_HEAD):
                    raise self._error(path, "is of a kind that is not cut")
            elif not isinstance(child, RMSNorm):
                self._visit(child, f"{path}.")

    def _attention(self, attention: Attention, path: str) -> None:
        config, rank, size = self.config, self.ranks.rank, self.ranks.size
        num_heads, num_kv_heads = config.num_heads // size, kv_heads_of(config, size)
        head_size = attention.head_size
        first_kv_head = rank * config.num_kv_heads // size
        q = range(rank * num_heads * head_size, (rank + 1) * num_heads * head_size)
        kv = range(first_kv_head * head_size, (first_kv_head + num_kv_heads) * head_size)
        attention.qkv_proj = self._merged(attention.qkv_proj, path, {"q_proj": q, "k_proj": kv, "v_proj": kv})
        bounds = [each * num_heads * head_size for each in range(size + 1)]
        attention.o_proj = self._row_parallel(attention.o_proj, f"{path}.o_proj", bounds)
        attention.heads = (num_heads, num_kv_heads, num_kv_heads)

    def _mlp(self, mlp: GatedMLP, path: str) -> None:
        total = self.config.intermediate_size
        unit = max(MLP_UNIT, self._group_size(f"{path}.down_proj"))
        while -(-total // unit) < self.ranks.size:
            unit //= 2
        bounds = even_bounds(total, self.ranks.size, unit)
        channels = range(bounds[self.ranks.rank], bounds[self.ranks.rank + 1])
        rows = {"gate_proj": channels, "up_proj": channels}
        mlp.gate_up_proj = self._merged(mlp.gate_up_proj, path, rows)
        mlp.down_proj = self._row_parallel(mlp.down_proj, f"{path}.down_proj", bounds)

    def _group_size(self, name: str) -> int:
        """Columns that share a scale in a matrix of a decoder layer; 0 if no column is bound to another."""
        scheme, rounding = self.config.scheme_of(name), self.options.layers
        if scheme is not None:
            return scheme.group_size
        return 0 if rounding is None else rounding.group_size

    def _merged(self, whole: MergedLinear, path: str, rows: Mapping[str, range]) -> MergedLinear:
        for name, part in rows.items():
            self._place(f"{path}.{name}", whole, rows=part, num_rows=whole.parts[name])
        sizes = {name: len(part) for name, part in rows.items()}
        weight = whole.weight
        return MergedLinear(weight.in_features, sizes, weight.data.dtype, whole.bias is not None)

    def _row_parallel(self, whole: Linear, name: str, bounds: list[int] | tuple[int, ...]) -> Linear:
        part = RowParallelLinear(whole, bounds, self.ranks)
        self._place(name, whole, columns=part.columns)
        return part

    def _place(
        self,
        name: str,
        whole: Linear | Embedding,
        *,
        rows: range | None = None,
        columns: range | None = None,
        num_rows: int | None = None,
    ) -> None:
        num_rows, num_columns = num_rows or whole.weight.out_features, whole.weight.in_features
        self.placements[name] = Placement(
            num_rows,
            num_columns,
            range(num_rows) if rows is None else rows,
            range(num_columns) if columns is None else columns,
        )

    def _error(self, name: str, reason: str) -> ModelError:
        return ModelError(
            f"{name} {reason}: tensor_parallel_size={self.ranks.size} is not possible",
            param="tensor_parallel_size",
        )


class ShardedWeights:
    """Cuts a rank's part out of what another source gives.

    Float matrices are cut by rows and columns. Integer ones are cut by rows only, because their columns
    may have an order: see `cut_columns`.

    Args:
        whole: The source of whole modules.
        placements: What `shard_model` says.
    """

    def __init__(self, whole: WeightSource, placements: Mapping[str, Placement]) -> None:
        self._whole = whole
        self._placements = placements

    def vector(self, name: str, shape: tuple[int, ...]) -> Tensor:
        place = self._placements.get(name.removesuffix(".bias"))
        if place is None:  # a norm
            return self._whole.vector(name, shape)
        return self._whole.vector(name, (place.num_rows,))[place.rows.start : place.rows.stop]

    def integers(self, module: str, rows: int, columns: int) -> LinearWeight | None:
        """All columns of this rank's rows, whatever `columns` says."""
        place = self._placements[module]
        weight = self._whole.integers(module, place.num_rows, place.num_columns)
        return weight if weight is None or rows == place.num_rows else take_rows(weight, place.rows)

    def rows(self, module: str, rows: int, columns: int) -> Rows:
        """This rank's rows: of all columns if `columns` is their number, else of this rank's."""
        place = self._placements[module]
        whole, first = self._whole.rows(module, place.num_rows, place.num_columns), place.rows.start
        if columns == place.num_columns:
            return lambda start, stop: whole(first + start, first + stop)
        part = slice(place.columns.start, place.columns.stop)
        return lambda start, stop: whole(first + start, first + stop)[:, part]


def take_rows(weight: LinearWeight, rows: range) -> LinearWeight:
    """Some rows of an integer matrix, as a copy."""

    def part(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[rows.start : rows.stop].clone()

    return replace(
        weight,
        out_features=len(rows),
        data=weight.data[rows.start : rows.stop].clone(),
        scales=part(weight.scales),
        zeros=part(weight.zeros),
    )


def cut_columns(weight: LinearWeight, layer: RowParallelLinear, name: str) -> LinearWeight:
    """The part of an integer matrix that a row-parallel layer of this rank multiplies with.

    Args:
        weight: All columns, with `int8_activations` as it will be.
        layer: Learns from it which inputs to take, if the columns have an order.
        name: What the checkpoint calls the matrix.

    Raises:
        ModelError: It cannot be cut where it would have to be.
    """
    columns = layer.columns
    if weight.order is not None:
        groups = -(-weight.in_features // weight.group_size)
        bounds = even_bounds(groups, layer.ranks.size)
        first, last = bounds[layer.ranks.rank], bounds[layer.ranks.rank + 1]
        stop = min(weight.in_features, last * weight.group_size)
        columns = range(first * weight.group_size, stop)
        if not columns:
            raise ModelError(
                f"{name} has {groups} groups of columns in an order of their own (g_idx), fewer than "
                f"tensor_parallel_size={layer.ranks.size}",
                param="tensor_parallel_size",
            )
        layer.picked = weight.order[columns.start : columns.stop].long()
    part = take_columns(weight, columns, name)
    return with_zero_column(part) if weight.int8_activations else part


def take_columns(weight: LinearWeight, columns: range, name: str) -> LinearWeight:
    """Some neighbouring columns of an integer matrix's `data`, as a copy without an order.

    Raises:
        ModelError: They begin within a group, at no multiple of `COLUMN_MULTIPLE`.
    """
    start, stop = columns.start, columns.stop
    is_whole_row = weight.group_size >= weight.in_features
    group_size = weight.group_size if is_whole_row else math.gcd(weight.group_size, start)
    if (group_size % COLUMN_MULTIPLE and not is_whole_row) or (weight.format == "int4" and start % 2):
        raise ModelError(
            f"{name} would be cut at column {start}, within a group of {weight.group_size}: that is possible "
            f"at multiples of {COLUMN_MULTIPLE} only; another tensor_parallel_size may do",
            param="tensor_parallel_size",
        )

    def of_groups(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or is_whole_row:
            return None if tensor is None else tensor.clone()
        finer = tensor.repeat_interleave(weight.group_size // group_size, dim=1)
        return finer[:, start // group_size : -(-stop // group_size)].clone()

    per_byte = 2 if weight.format == "int4" else 1
    return replace(
        weight,
        in_features=len(columns),
        data=weight.data[:, start // per_byte : -(-stop // per_byte)].clone(),
        scales=of_groups(weight.scales),
        zeros=of_groups(weight.zeros),
        group_size=group_size,
        order=None,
    )


def with_zero_column(weight: LinearWeight) -> LinearWeight:
    """An integer matrix without an order and one more column, in which its values are 0."""
    rows, columns = weight.out_features, weight.in_features
    scales, zeros, group_size = weight.scales, weight.zeros, weight.group_size
    assert scales is not None, "an integer matrix has scales"
    middle = INT4_ZERO if weight.format == "int4" else 0
    if group_size >= columns:
        group_size = max(group_size, -(-(columns + 1) // COLUMN_MULTIPLE) * COLUMN_MULTIPLE)
    elif columns % group_size == 0:  # it is a group by itself
        scales = torch.cat((scales, torch.ones_like(scales[:, :1])), 1)
        zeros = None if zeros is None else torch.cat((zeros, torch.full_like(zeros[:, :1], middle)), 1)
    data = weight.data
    zero = data.new_full((rows,), middle, dtype=torch.int16) if zeros is None else zeros[:, -1]
    if weight.format == "int8":
        data = torch.cat((data, zero.to(torch.int8)[:, None]), 1)
    elif columns % 2:
        data[:, -1] = data[:, -1] & 15 | zero.to(torch.uint8) << 4
    else:
        data = torch.cat((data, zero.to(torch.uint8)[:, None]), 1)
    return replace(
        weight, in_features=columns + 1, data=data, scales=scales, zeros=zeros, group_size=group_size
    )
