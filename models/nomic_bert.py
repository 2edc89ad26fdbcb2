"""NomicBert (Nussbaum et al., 2024): post-norm layers, rotary positions, SwiGLU, biases in norms alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..kernels import ops
from .config import ModelConfig
from .encoder import Encoder, EncoderBatch, LayerNorm, NamedLayer, Table, encoder_of
from .layers import Embedding, Layer, Linear, MergedLinear
from .rope import cos_sin_table
from .rope_config import RopeConfig


class NomicBertEmbeddings(NamedLayer):
    """The sum of a token's embedding and that of its type."""

    names: ClassVar[dict[str, str]] = {"words": "word_embeddings", "types": "token_type_embeddings"}

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        num_types = encoder_of(config).num_token_types
        self.words = Embedding(config.vocab_size, config.hidden_size, dtype)
        self.types = Table(num_types, config.hidden_size, dtype) if num_types else None

    def __call__(self, batch: EncoderBatch) -> Tensor:
        x = self.words(batch.input_ids)
        return x if self.types is None else x + self.types(batch.token_types)


class NomicBertLayer(NamedLayer):
    """`h = norm(x + attention(x))`, then `norm(h + mlp(h))`."""

    names: ClassVar[dict[str, str]] = {
        "qkv": "attn.Wqkv",
        "attention_output": "attn.out_proj",
        "attention_norm": "norm1",
        "gate_up": "mlp.gate_up",
        "down": "mlp.fc2",
        "output_norm": "norm2",
    }

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        size, eps = config.hidden_size, encoder_of(config).layer_norm_eps
        self.qkv = Linear(size, 3 * size, dtype)
        self.attention_output = Linear(size, size, dtype)
        self.attention_norm = LayerNorm(size, eps, dtype)
        self.gate_up = MergedLinear(size, dict.fromkeys(("fc12", "fc11"), config.intermediate_size), dtype)
        self.down = Linear(config.intermediate_size, size, dtype)
        self.output_norm = LayerNorm(size, eps, dtype)
        self.head_size = config.head_size

    def __call__(self, x: Tensor, batch: EncoderBatch, cos_sin: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(x.shape[0], 3, -1, self.head_size).unbind(1)
        q, k = ops.rope(q, cos_sin, batch.positions), ops.rope(k, cos_sin, batch.positions)
        attended = ops.packed_attention(q, k, v, batch.sequences, self.head_size**-0.5)
        x, _ = self.attention_norm.add(self.attention_output(attended.flatten(1)), x)
        return self.output_norm.add(self.down(ops.silu_and_mul(self.gate_up(x))), x)[0]


class NomicBertStack(Layer):
    """The layers, where the checkpoint has them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.layers = [NomicBertLayer(config, dtype) for _ in range(config.num_layers)]


class NomicBertModel(Encoder):
    """NomicBert under the names of its own checkpoints, which have no prefix; for embeddings."""

    body = ""
    unused = ("pooler.",)

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        encoder = encoder_of(config)
        self.embeddings = NomicBertEmbeddings(config, dtype)
        self.emb_ln = LayerNorm(config.hidden_size, encoder.layer_norm_eps, dtype)
        self.encoder = NomicBertStack(config, dtype)
        self.cos_sin = cos_sin_table(RopeConfig(theta=encoder.theta), config.head_size, max_model_len)

    def forward(self, batch: EncoderBatch) -> Tensor:
        x = self.emb_ln(self.embeddings(batch))
        for layer in self.encoder.layers:
            x = layer(x, batch, self.cos_sin)
        return x
