"""BERT (Devlin et al., 2019), and the many models of its shape: MiniLM, E5, BGE, GTE."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .config import ModelConfig
from .encoder import AbsoluteEmbeddings, Encoder, EncoderBatch, PostNormLayer, classifier_of
from .layers import Layer, Linear


class BertLayer(PostNormLayer):
    """A layer under BERT's names."""

    projections = ("query", "key", "value")
    names: ClassVar[dict[str, str]] = {
        "qkv": "attention.self.qkv",
        "attention_output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "output_norm": "output.LayerNorm",
    }


class BertBody(Layer):
    """Embeddings and layers."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, pooler: BertPooler | None = None) -> None:
        self.embeddings = AbsoluteEmbeddings(config, dtype)
        self.encoder = BertStack(config, dtype)
        self.pooler = pooler

    def __call__(self, batch: EncoderBatch) -> Tensor:
        x = self.embeddings(batch)
        for layer in self.encoder.layer:
            x = layer(x, batch)
        return x


class BertStack(Layer):
    """The layers, where the checkpoint has them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.layer = [BertLayer(config, dtype) for _ in range(config.num_layers)]


class BertModel(Encoder):
    """BERT without a head, or with one that embeddings do without: the pooler, that of masked tokens."""

    body = "bert."
    unused = ("bert.pooler.", "cls.")

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.bert = BertBody(config, dtype)

    def forward(self, batch: EncoderBatch) -> Tensor:
        return self.bert(batch)


class BertForSequenceClassification(BertModel):
    """The first token's state goes through the pooler, a layer with tanh, and to the labels."""

    unused = ()

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.bert = BertBody(config, dtype, BertPooler(config, dtype))
        self.classifier = Linear(config.hidden_size, classifier_of(config).num_labels, dtype, bias=True)

    def classify(self, pooled: Tensor) -> Tensor:
        assert self.bert.pooler is not None
        return self.classifier(self.bert.pooler(pooled)).float()


class BertPooler(Layer):
    """The layer between the first token's state and a head."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.dense = Linear(config.hidden_size, config.hidden_size, dtype, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.tanh(self.dense(x))
