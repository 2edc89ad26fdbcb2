"""What all decoder-only language models share: embedding, layers, final norm, output projection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from ..kernels.types import AttentionMetadata
from .config import ModelConfig
from .layers import Embedding, Layer, Linear, Matrix, RMSNorm
from .quant.config import LM_HEAD, SCORE
from .rope import cos_sin_table
from .text_model import TextModel


class DecoderLayer(Layer, ABC):
    """One layer of the stack; an architecture's file composes it."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        """Makes the layer at `index`, counted from 0."""

    @abstractmethod
    def __call__(
        self, x: Tensor, residual: Tensor | None, cos_sin: Tensor, kv_cache: Tensor, meta: AttentionMetadata
    ) -> tuple[Tensor, Tensor]:
        """Runs the layer.

        The residual stream travels as two summands, because each norm adds and normalises in one
        kernel: the stream is `x + residual`, or x alone in the first layer.

        Args:
            x: `[T, hidden]`.
            residual: `[T, hidden]`, or None in the first layer.
            cos_sin: The rotary table.
            kv_cache: This layer's `[2, num_blocks, num_kv_heads, block_size, head_size]`.
            meta: Where each token belongs.

        Returns:
            The two summands of the stream after this layer.
        """


class Decoder(Layer):
    """The stack below the output projection; `model.` in checkpoints."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, layer_type: type[DecoderLayer]) -> None:
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.layers = [layer_type(config, index, dtype) for index in range(config.num_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)

    def __call__(
        self, input_ids: Tensor, cos_sin: Tensor, kv_caches: list[Tensor], meta: AttentionMetadata
    ) -> Tensor:
        x, residual = self.embed_tokens(input_ids), None
        for layer, kv_cache in zip(self.layers, kv_caches, strict=True):
            x, residual = layer(x, residual, cos_sin, kv_cache, meta)
        return self.norm(x) if residual is None else self.norm.add(x, residual)[0]


class CausalLM(TextModel):
    """A language model over the paged cache; an architecture is a subclass that names its layer.

    Where the configuration has a classifier, the head gives a number for each label instead of each token.

    Args:
        config: The model's shape.
        dtype: Of weights and activations.
        max_model_len: Positions that the rotary table covers.
    """

    layer_type: ClassVar[type[DecoderLayer]]

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.model = Decoder(config, dtype, self.layer_type)
        self.num_outputs = config.classifier.num_labels if config.classifier else config.vocab_size
        self.lm_head = Linear(config.hidden_size, self.num_outputs, dtype)
        self.cos_sin = cos_sin_table(config.rope, config.head_size, max_model_len)
        self._logits = torch.empty(0, self.num_outputs, dtype=torch.float32)

    def tie_weights(self) -> None:
        """Gives the output projection the embedding's matrix, if they are tied; done once it is loaded."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, input_ids: Tensor, kv_caches: list[Tensor], meta: AttentionMetadata) -> Tensor:
        """Computes a step's tokens and writes their keys and values to the cache.

        Args:
            input_ids: int64 `[T]`.
            kv_caches: For each layer `[2, num_blocks, num_kv_heads, block_size, head_size]`.
            meta: Where each token belongs; every position is below `max_model_len`.

        Returns:
            `[T, hidden]`, the final norm applied.
        """
        return self.model(input_ids, self.cos_sin, kv_caches, meta)

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Projects rows `[R, hidden]` of `forward`'s result to fp32 logits `[R, vocab]`, or `[R, labels]`.

        The result is a view that the next call overwrites: logits of many rows take many MiB, and
        getting them from the system anew, page by page, costs as much as some layers.
        """
        rows = hidden.shape[0]
        if self._logits.shape[0] < rows:
            self._logits = hidden.new_empty(rows, self.num_outputs, dtype=torch.float32)
        return self.lm_head(hidden, self._logits[:rows])

    def vectors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        yield from self.model.vectors(f"{prefix}model.")

    def matrices(self, prefix: str = "") -> Iterator[Matrix]:
        yield from self.model.matrices(f"{prefix}model.")
        if not self.config.tie_word_embeddings:
            yield from self.lm_head.matrices(f"{prefix}{SCORE if self.config.classifier else LM_HEAD}.")
