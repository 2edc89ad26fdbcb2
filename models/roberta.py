"""RoBERTa (Liu et al., 2019), XLM-RoBERTa (Conneau et al., 2020): BERT, with positions counted otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

from .bert import BertBody
from .config import ModelConfig
from .encoder import Encoder, EncoderBatch, classifier_of
from .layers import Layer, Linear


class RobertaModel(Encoder):
    """RoBERTa without a head, or with one that embeddings do without: the pooler, that of masked tokens."""

    body = "roberta."
    unused = ("roberta.pooler.", "lm_head.")

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.roberta = BertBody(config, dtype)

    def forward(self, batch: EncoderBatch) -> Tensor:
        return self.roberta(batch)


class RobertaHead(Layer):
    """A layer with tanh, and the projection to the labels."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype) -> None:
        self.dense = Linear(config.hidden_size, config.hidden_size, dtype, bias=True)
        self.out_proj = Linear(config.hidden_size, classifier_of(config).num_labels, dtype, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        return self.out_proj(torch.tanh(self.dense(x)))


class RobertaForSequenceClassification(RobertaModel):
    """The first token's state goes to the head."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        super().__init__(config, dtype, max_model_len)
        self.classifier = RobertaHead(config, dtype)

    def classify(self, pooled: Tensor) -> Tensor:
        return self.classifier(pooled).float()
