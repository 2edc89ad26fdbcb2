"""The building blocks of decoder-only transformers, over the kernels.

Layers are plain objects rather than `nn.Module`s: a step of a small model is a few hundred ops of
some microseconds each, and calling a plain method costs a tenth of a module's `__call__`.

A layer's attributes carry the names of the checkpoint: `Layer.vectors` and `Layer.matrices` walk them
and yield what the loader fills under its name, so a composition file that spells a model's structure
has spelled its loading, too. Matrices that always run together (q, k and v; gate and up) are one
`LinearWeight`; the checkpoint's matrices are row ranges of it.

Norms and biases are made with the layers and filled in place. A matrix is only a shape (on torch's meta
device, where it takes no memory) until the loader replaces it by the form in which it will run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..kernels import ops
from ..kernels.types import AttentionMetadata, LinearWeight
from .config import ModelConfig


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of the model, and the modules of the checkpoint that it is made of.

    Attributes:
        owner: The layer whose `weight` the loader sets.
        parts: The checkpoint's name of each module, without `.weight`, and its rows, from the top down.
        is_embedding: Whether token ids select its rows, which stay as they are stored.
        is_experts: Whether it is a stack of experts' matrices, which stay float and are never repacked.
    """

    owner: Linear | Embedding | ExpertMatrices
    parts: dict[str, int]
    is_embedding: bool = False
    is_experts: bool = False


class Layer:
    """Something with tensors that a checkpoint fills."""

    def vectors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Yields each norm's and bias' checkpoint name and the tensor, or part of one, that takes it."""
        for name, layer in self.children():
            yield from layer.vectors(f"{prefix}{name}.")
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                yield prefix + name, value

    def matrices(self, prefix: str = "") -> Iterator[Matrix]:
        """Yields every matrix of this layer and of the layers below it."""
        for name, layer in self.children():
            yield from layer.matrices(f"{prefix}{name}.")

    def children(self) -> Iterator[tuple[str, Layer]]:
        """Yields the layers held as attributes, or in lists as attributes, and their names."""
        for name, value in vars(self).items():
            if isinstance(value, Layer):
                yield name, value
            elif isinstance(value, list):
                for index, item in enumerate(cast("list[Any]", value)):
                    if isinstance(item, Layer):
                        yield f"{name}.{index}", item


class Linear(Layer):
    """`y = x @ W.T + b`.

    Args:
        in_features: Columns of W.
        out_features: Rows of W.
        dtype: Of weight and bias.
        bias: Whether there is one.
    """

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype, bias: bool = False) -> None:
        self.weight = shape_only(out_features, in_features, dtype)
        self.bias = torch.empty(out_features, dtype=dtype) if bias else None

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return ops.linear(x, self.weight, self.bias, out)

    def vectors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        if self.bias is not None:
            yield prefix + "bias", self.bias

    def matrices(self, prefix: str = "") -> Iterator[Matrix]:
        yield Matrix(self, {prefix.removesuffix("."): self.weight.out_features})


class MergedLinear(Linear):
    """Several matrices of the same input, stacked by rows into one.

    Args:
        in_features: Columns of W.
        parts: The checkpoint's names, siblings of this layer, and how many rows each has.
        dtype: Of weight and bias.
        bias: Whether the parts have biases.
    """

    def __init__(
        self, in_features: int, parts: dict[str, int], dtype: torch.dtype, bias: bool = False
    ) -> None:
        super().__init__(in_features, sum(parts.values()), dtype, bias)
        self.parts = parts

    def vectors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        if self.bias is not None:
            for name, part in zip(self.parts, self.bias.split(list(self.parts.values())), strict=True):
                yield f"{_parent(prefix)}{name}.bias", part

    def matrices(self, prefix: str = "") -> Iterator[Matrix]:
        yield Matrix(self, {_parent(prefix) + name: rows for name, rows in self.parts.items()})


def _parent(prefix: str) -> str:
    """The prefix of a layer's siblings: `a.b.` for `a.b.c.`."""
    return prefix[: prefix.rstrip(".").rfind(".") + 1]


def shape_only(rows: int, columns: int, dtype: torch.dtype) -> LinearWeight:
    """A matrix that takes no memory, until the loader replaces it."""
    return LinearWeight.from_dense(torch.empty(rows, columns, dtype=dtype, device="meta"))


class Embedding(Layer):
    """Token ids to rows of a matrix `[vocab, hidden]`.

    The matrix is a `LinearWeight`, so that an output projection can be tied to it: then both read the
    one form that it has, whatever that is.
    """

    def __init__(self, vocab_size: int, hidden_size: int, dtype: torch.dtype) -> None:
        self.weight = shape_only(vocab_size, hidden_size, dtype)
        self.dtype = dtype

    def __call__(self, ids: Tensor) -> Tensor:
        return ops.embedding(ids, self.weight, self.dtype)

    def matrices(self, prefix: str = "") -> Iterator[Matrix]:
        yield Matrix(self, {prefix.removesuffix("."): self.weight.out_features}, is_embedding=True)


class RMSNorm(Layer):
    """Root mean square norm (Zhang & Sennrich, 2019), alone or fused with the residual sum before it."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        self.weight = torch.empty(size, dtype=dtype)
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the norm of `x + residual`, and the sum."""
        return ops.add_rms_norm(x, residual, self.weight, self.eps)


class Attention(Layer):
    """Causal self-attention with grouped queries (Ainslie et al., 2023) over the paged cache.

    Args:
        config: The model's shape.
        layer: Index of the decoder layer, which decides its window.
        dtype: Of the weights.
        qkv_bias: Whether q, k and v have biases.
        output_bias: Whether the output projection has one.
        qk_norm: Whether each head of q and k is normalised before it is rotated.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        dtype: torch.dtype,
        *,
        qkv_bias: bool = False,
        output_bias: bool = False,
        qk_norm: bool = False,
    ) -> None:
        q_size, kv_size = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        parts = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        self.qkv_proj = MergedLinear(config.hidden_size, parts, dtype, qkv_bias)
        self.o_proj = Linear(q_size, config.hidden_size, dtype, output_bias)
        self.q_norm = RMSNorm(config.head_size, config.rms_norm_eps, dtype) if qk_norm else None
        self.k_norm = RMSNorm(config.head_size, config.rms_norm_eps, dtype) if qk_norm else None
        self.norm_eps = config.rms_norm_eps
        self.head_size = config.head_size
        self.heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        self.scale = config.head_size**-0.5
        self.window = config.sliding_window[layer]

    def __call__(self, x: Tensor, cos_sin: Tensor, kv_cache: Tensor, meta: AttentionMetadata) -> Tensor:
        num_tokens = x.shape[0]
        qkv = self.qkv_proj(x).view(num_tokens, -1, self.head_size)
        q, k, v = qkv.split_with_sizes(self.heads, 1)
        q_norm = self.q_norm.weight if self.q_norm else None
        k_norm = self.k_norm.weight if self.k_norm else None
        q = ops.rope_and_cache_write(q, k, v, cos_sin, kv_cache, meta, q_norm, k_norm, self.norm_eps)
        out = ops.paged_attention(q, kv_cache, meta, self.scale, self.window)
        return self.o_proj(out.view(num_tokens, -1))


class GatedMLP(Layer):
    """`down(act(gate(x)) * up(x))` (GLU variants, Shazeer, 2020)."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        size = config.intermediate_size
        parts = {"gate_proj": size, "up_proj": size}
        self.gate_up_proj = MergedLinear(config.hidden_size, parts, dtype, config.mlp_bias)
        self.down_proj = Linear(size, config.hidden_size, dtype, config.mlp_bias)
        self.hidden_act = config.hidden_act

    def __call__(self, x: Tensor) -> Tensor:
        return self.down_proj(self.activate(self.gate_up_proj(x)))

    def activate(self, gate_up: Tensor) -> Tensor:
        """`act(gate) * up` of `[T, gate | up]`."""
        if self.hidden_act == "silu":
            return ops.silu_and_mul(gate_up)
        return ops.gelu_and_mul(gate_up, "tanh" if self.hidden_act == "gelu_tanh" else "none")


class ExpertMatrices(Layer):
    """The matrices of all experts of a layer, one upon the other; `SparseMoE` runs them.

    Args:
        in_features: Columns.
        parts: The checkpoint's names of an expert's matrices, and how many rows each has.
        num_experts: How many experts.
        dtype: Of the weights.
    """

    def __init__(self, in_features: int, parts: dict[str, int], num_experts: int, dtype: torch.dtype) -> None:
        self.weight = shape_only(num_experts * sum(parts.values()), in_features, dtype)
        self.parts = parts
        self.num_experts = num_experts

    def stacked(self) -> Tensor:
        """`[experts, rows, in_features]`."""
        return self.weight.data.view(self.num_experts, -1, self.weight.in_features)

    def matrices(self, prefix: str = "") -> Iterator[Matrix]:
        stem = f"{_parent(prefix)}experts."
        rows = {f"{stem}{e}.{name}": n for e in range(self.num_experts) for name, n in self.parts.items()}
        yield Matrix(self, rows, is_experts=True)


class SparseMoE(Layer):
    """A mixture of gated experts (Mixtral, Jiang et al., 2024): a router chooses a few for each token.

    Args:
        config: The model's shape.
        dtype: Of the weights.
        names: The checkpoint's names of an expert's gate, up and down projections.
    """

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
    ) -> None:
        size, num_experts = config.moe_intermediate_size, config.num_experts
        gate, up, down = names
        self.gate = Linear(config.hidden_size, num_experts, dtype)
        self.gate_up = ExpertMatrices(config.hidden_size, {gate: size, up: size}, num_experts, dtype)
        self.down = ExpertMatrices(size, {down: config.hidden_size}, num_experts, dtype)
        self.top_k = config.num_experts_per_token
        self.renormalize = config.renormalize_experts

    def __call__(self, x: Tensor) -> Tensor:
        router_logits = self.gate(x)
        return ops.moe(
            x, router_logits, self.gate_up.stacked(), self.down.stacked(), self.top_k, self.renormalize
        )
