"""Mistral 7B (Jiang et al., 2023): Llama's layers without biases, in early versions with a sliding window."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.types import AttentionMetadata
from .causal_lm import CausalLM, DecoderLayer
from .config import ModelConfig
from .layers import Attention, GatedMLP, RMSNorm


class MistralLayer(DecoderLayer):
    """`h = x + attention(norm(x))`, then `h + mlp(norm(h))`; the window is in the configuration."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = Attention(config, index, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = GatedMLP(config, dtype)

    def __call__(
        self, x: Tensor, residual: Tensor | None, cos_sin: Tensor, kv_cache: Tensor, meta: AttentionMetadata
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.input_layernorm(x), x
        else:
            x, residual = self.input_layernorm.add(x, residual)
        x = self.self_attn(x, cos_sin, kv_cache, meta)
        x, residual = self.post_attention_layernorm.add(x, residual)
        return self.mlp(x), residual


class MistralForCausalLM(CausalLM):
    """Mistral 7B, Mistral Nemo, Mistral Small and their kin."""

    layer_type = MistralLayer
