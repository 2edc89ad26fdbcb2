"""ModernBERT (Warner et al., 2024): pre-norm layers, rotary positions, gated MLPs, and local attention.

Most layers see a window of the text; one in a few sees all of it, with a rotary base of its own.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..kernels import ops
from .config import ModelConfig
from .encoder import Encoder, EncoderBatch, LayerNorm, NamedLayer, classifier_of, encoder_of
from .layers import Embedding, Layer, Linear
from .rope import cos_sin_table
from .rope_config import RopeConfig


def _norm(config: ModelConfig, dtype: torch.dtype) -> LayerNorm:
    encoder = encoder_of(config)
    return LayerNorm(config.hidden_size, encoder.layer_norm_eps, dtype, bias=encoder.norm_bias)


class ModernBertEmbeddings(Layer):
    """A token's embedding, normalised; positions come in with attention."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.tok_embeddings = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.norm = _norm(config, dtype)

    def __call__(self, ids: Tensor) -> Tensor:
        return self.norm(self.tok_embeddings(ids))


class ModernBertLayer(NamedLayer):
    """`h = x + attention(norm(x))`, then `h + mlp(norm(h))`; the first layer's input comes normalised."""

    names: ClassVar[dict[str, str]] = {
        "qkv": "attn.Wqkv",
        "attention_output": "attn.Wo",
        "attention_norm": "attn_norm",
        "gate_up": "mlp.Wi",
        "down": "mlp.Wo",
    }

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        encoder, size, wide = encoder_of(config), config.hidden_size, config.intermediate_size
        self.attention_norm = _norm(config, dtype) if index else None
        self.qkv = Linear(size, 3 * size, dtype, encoder.attention_bias)
        self.attention_output = Linear(size, size, dtype, encoder.attention_bias)
        self.mlp_norm = _norm(config, dtype)
        self.gate_up = Linear(size, 2 * wide, dtype, encoder.mlp_bias)
        self.down = Linear(wide, size, dtype, encoder.mlp_bias)
        self.window = encoder.windows[index]
        self.head_size = config.head_size

    def __call__(
        self, x: Tensor, residual: Tensor | None, batch: EncoderBatch, cos_sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two summands of the stream after this layer, as `DecoderLayer` has them."""
        if self.attention_norm is None or residual is None:
            residual = x
        else:
            x, residual = self.attention_norm.add(x, residual)
        q, k, v = self.qkv(x).view(x.shape[0], 3, -1, self.head_size).unbind(1)
        q, k = ops.rope(q, cos_sin, batch.positions), ops.rope(k, cos_sin, batch.positions)
        attended = ops.packed_attention(q, k, v, batch.sequences, self.head_size**-0.5, self.window)
        x, residual = self.mlp_norm.add(self.attention_output(attended.flatten(1)), residual)
        return self.down(ops.gelu_and_mul(self.gate_up(x), "none")), residual


class ModernBertBody(Layer):
    """Embeddings, layers, and the last norm."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.embeddings = ModernBertEmbeddings(config, dtype)
        self.layers = [ModernBertLayer(config, index, dtype) for index in range(config.num_layers)]
        self.final_norm = _norm(config, dtype)

    def __call__(self, batch: EncoderBatch, cos_sin: Tensor, local_cos_sin: Tensor) -> Tensor:
        x, residual = self.embeddings(batch.input_ids), None
        for layer in self.layers:
            x, residual = layer(x, residual, batch, local_cos_sin if layer.window else cos_sin)
        return self.final_norm(x) if residual is None else self.final_norm.add(x, residual)[0]


class ModernBertModel(Encoder):
    """ModernBERT without a head, or with that of masked tokens, which embeddings do without."""

    body = "model."
    unused = ("head.", "decoder.")

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        encoder = encoder_of(config)
        self.model = ModernBertBody(config, dtype)
        self.cos_sin, self.local_cos_sin = (
            cos_sin_table(RopeConfig(theta=theta), config.head_size, max_model_len)
            for theta in (encoder.theta, encoder.local_theta)
        )

    def forward(self, batch: EncoderBatch) -> Tensor:
        return self.model(batch, self.cos_sin, self.local_cos_sin)


class ModernBertHead(Layer):
    """A layer with GELU, normalised, before the labels."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.dense = Linear(config.hidden_size, config.hidden_size, dtype, encoder_of(config).head_bias)
        self.norm = _norm(config, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return self.norm(ops.gelu(self.dense(x)))


class ModernBertForSequenceClassification(ModernBertModel):
    """The first token's state, or the mean of all, goes to the head."""

    unused = ()

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.head = ModernBertHead(config, dtype)
        self.classifier = Linear(config.hidden_size, classifier_of(config).num_labels, dtype, bias=True)

    def classify(self, pooled: Tensor) -> Tensor:
        return self.classifier(self.head(pooled)).float()
