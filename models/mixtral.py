"""Mixtral (Jiang et al., 2024): Mistral's layers with a mixture of experts for an MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.types import AttentionMetadata
from .causal_lm import CausalLM, DecoderLayer
from .config import ModelConfig
from .layers import Attention, RMSNorm, SparseMoE


class MixtralLayer(DecoderLayer):
    """`h = x + attention(norm(x))`, then `h + moe(norm(h))`."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = Attention(config, index, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.block_sparse_moe = SparseMoE(config, dtype, ("w1", "w3", "w2"))

    def __call__(
        self, x: Tensor, residual: Tensor | None, cos_sin: Tensor, kv_cache: Tensor, meta: AttentionMetadata
    ) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.input_layernorm(x), x
        else:
            x, residual = self.input_layernorm.add(x, residual)
        x = self.self_attn(x, cos_sin, kv_cache, meta)
        x, residual = self.post_attention_layernorm.add(x, residual)
        return self.block_sparse_moe(x), residual


class MixtralForCausalLM(CausalLM):
    """Mixtral 8x7B and 8x22B."""

    layer_type = MixtralLayer
