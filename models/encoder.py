"""What encoders share: embeddings, layers over whole sequences, and what a classifier makes of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..kernels import ops
from ..kernels.types import PackedSequences
from .config import ModelConfig
from .encoder_config import ClassifierConfig, EncoderConfig
from .layers import Embedding, Layer, Linear, Matrix, MergedLinear
from .text_model import TextModel


@dataclass(slots=True)
class EncoderBatch:
    """The texts of one step, packed without padding.

    Attributes:
        input_ids: int64 `[T]`.
        positions: int64 `[T]`, each token's place in its text, from 0.
        token_types: int64 `[T]`: 1 for the tokens of the second text of a pair, else 0.
        sequences: Which rows are whose.
    """

    input_ids: Tensor
    positions: Tensor
    token_types: Tensor
    sequences: PackedSequences


class LayerNorm(Layer):
    """Layer norm (Ba et al., 2016), alone or fused with the residual sum before it."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, *, bias: bool = True) -> None:
        self.weight = torch.empty(size, dtype=dtype)
        self.bias = torch.empty(size, dtype=dtype) if bias else None
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the norm of `x + residual`, and the sum."""
        return ops.add_layer_norm(x, residual, self.weight, self.bias, self.eps)


class Table(Layer):
    """A small table of embeddings, `[rows, size]`, that is added as it is stored."""

    def __init__(self, rows: int, size: int, dtype: torch.dtype) -> None:
        self.weight = torch.empty(rows, size, dtype=dtype)

    def __call__(self, index: Tensor) -> Tensor:
        return self.weight[index]


class NamedLayer(Layer):
    """A layer whose checkpoint names its parts otherwise than its attributes.

    Attributes:
        names: The checkpoint's name of each attribute that holds a layer.
    """

    names: ClassVar[dict[str, str]]

    def children(self) -> Iterator[tuple[str, Layer]]:
        for name, layer in super().children():
            first, dot, rest = name.partition(".")
            yield self.names.get(first, first) + dot + rest, layer


class AbsoluteEmbeddings(NamedLayer):
    """The sum of a token's embeddings: its own, its position's and its type's; normalised (BERT)."""

    names: ClassVar[dict[str, str]] = {
        "words": "word_embeddings",
        "positions": "position_embeddings",
        "types": "token_type_embeddings",
        "norm": "LayerNorm",
    }

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        encoder, size = encoder_of(config), config.hidden_size
        self.words = Embedding(config.vocab_size, size, dtype)
        self.positions = Table(encoder.num_positions, size, dtype)
        self.types = Table(encoder.num_token_types, size, dtype) if encoder.num_token_types else None
        self.norm = LayerNorm(size, encoder.layer_norm_eps, dtype)
        self.padding_id = encoder.padding_id

    def __call__(self, batch: EncoderBatch) -> Tensor:
        x = self.words(batch.input_ids)
        if self.types is not None:
            x = x + self.types(batch.token_types)
        return self.norm.add(x, self.positions(self._positions(batch)))[0]

    def _positions(self, batch: EncoderBatch) -> Tensor:
        if self.padding_id is None:
            return batch.positions
        # RoBERTa counts the tokens that are no padding, and gives padding the row of its own id.
        counts = batch.input_ids != self.padding_id
        total = counts.cumsum(0)
        starts = batch.sequences.starts.long()
        before = torch.cat((total.new_zeros(1), total))[starts[:-1]]
        before = before.repeat_interleave(starts.diff(), output_size=len(total))
        return (total - before) * counts + self.padding_id


class PostNormLayer(NamedLayer):
    """`h = norm(x + attention(x))`, then `norm(h + mlp(h))`, as the first transformer had it.

    (Vaswani et al., 2017; Devlin et al., 2019.) Subclasses give the checkpoint's names: of the layers, and
    of the projections to queries, keys and values.
    """

    projections: ClassVar[tuple[str, str, str]]

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        encoder, size = encoder_of(config), config.hidden_size
        self.qkv = MergedLinear(size, dict.fromkeys(self.projections, size), dtype, bias=True)
        self.attention_output = Linear(size, size, dtype, bias=True)
        self.attention_norm = LayerNorm(size, encoder.layer_norm_eps, dtype)
        self.up = Linear(size, config.intermediate_size, dtype, bias=True)
        self.down = Linear(config.intermediate_size, size, dtype, bias=True)
        self.output_norm = LayerNorm(size, encoder.layer_norm_eps, dtype)
        self.activate = activation(encoder)
        self.head_size = config.head_size

    def __call__(self, x: Tensor, batch: EncoderBatch) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], 3, -1, self.head_size).unbind(1)
        attended = ops.packed_attention(q, k, v, batch.sequences, self.head_size**-0.5)
        x, _ = self.attention_norm.add(self.attention_output(attended.flatten(1)), x)
        return self.output_norm.add(self.down(self.activate(self.up(x))), x)[0]


class Encoder(TextModel):
    """A model that reads whole texts, in both directions; with a head, it classifies them.

    Attributes:
        body: See `TextModel`.
    """

    @abstractmethod
    def forward(self, batch: EncoderBatch) -> Tensor:
        """The last hidden states, `[T, hidden]`, of the texts of a step."""

    def classify(self, pooled: Tensor) -> Tensor:
        """fp32 `[R, labels]` of R texts' pooled states `[R, hidden]`; only for models with a head."""
        raise NotImplementedError(f"{type(self).__name__} has no head")

    def vectors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        for name, layer in self.children():
            yield from layer.vectors(f"{prefix}{name}.")

    def matrices(self, prefix: str = "") -> Iterator[Matrix]:
        for name, layer in self.children():
            yield from layer.matrices(f"{prefix}{name}.")


def encoder_of(config: ModelConfig) -> EncoderConfig:
    """The part of a configuration that only encoders have."""
    assert config.encoder is not None, f"{config.architecture} is no encoder"
    return config.encoder


def classifier_of(config: ModelConfig) -> ClassifierConfig:
    """The part of a configuration that only classifiers have."""
    assert config.classifier is not None, f"{config.architecture} is no classifier"
    return config.classifier


def activation(config: EncoderConfig) -> Callable[[Tensor], Tensor]:
    """The activation of an encoder's MLP."""
    if config.hidden_act == "relu":
        return torch.relu
    if config.hidden_act == "silu":
        return torch.nn.functional.silu
    approximate = "tanh" if config.hidden_act == "gelu_tanh" else "none"
    return lambda x: ops.gelu(x, approximate)
