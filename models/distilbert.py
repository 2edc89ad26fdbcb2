"""DistilBERT (Sanh et al., 2019): half of BERT's layers, and no token types."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .config import ModelConfig
from .encoder import AbsoluteEmbeddings, Encoder, EncoderBatch, PostNormLayer, classifier_of
from .layers import Layer, Linear


class DistilBertLayer(PostNormLayer):
    """A layer under DistilBERT's names."""

    projections = ("q_lin", "k_lin", "v_lin")
    names: ClassVar[dict[str, str]] = {
        "qkv": "attention.qkv",
        "attention_output": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "up": "ffn.lin1",
        "down": "ffn.lin2",
        "output_norm": "output_layer_norm",
    }


class DistilBertBody(Layer):
    """Embeddings and layers."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.embeddings = AbsoluteEmbeddings(config, dtype)
        self.transformer = DistilBertStack(config, dtype)

    def __call__(self, batch: EncoderBatch) -> Tensor:
        x = self.embeddings(batch)
        for layer in self.transformer.layer:
            x = layer(x, batch)
        return x


class DistilBertStack(Layer):
    """The layers, where the checkpoint has them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.layer = [DistilBertLayer(config, dtype) for _ in range(config.num_layers)]


class DistilBertModel(Encoder):
    """DistilBERT without a head, or with that of masked tokens, which embeddings do without."""

    body = "distilbert."
    unused = ("vocab_",)

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.distilbert = DistilBertBody(config, dtype)

    def forward(self, batch: EncoderBatch) -> Tensor:
        return self.distilbert(batch)


class DistilBertForSequenceClassification(DistilBertModel):
    """The first token's state goes through a layer with ReLU, and to the labels."""

    unused = ()

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.pre_classifier = Linear(config.hidden_size, config.hidden_size, dtype, bias=True)
        self.classifier = Linear(config.hidden_size, classifier_of(config).num_labels, dtype, bias=True)

    def classify(self, pooled: Tensor) -> Tensor:
        return self.classifier(torch.relu(self.pre_classifier(pooled))).float()
