"""Qwen3-MoE (Yang et al., 2025): Qwen3's layers with a mixture of experts for an MLP, in all or some."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.types import AttentionMetadata
from .causal_lm import CausalLM, DecoderLayer
from .config import ModelConfig
from .layers import Attention, GatedMLP, RMSNorm, SparseMoE


class Qwen3MoeLayer(DecoderLayer):
    """`h = x + attention(norm(x))`, then `h + mlp(norm(h))`; q and k are normalised before they turn."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = Attention(
            config,
            index,
            dtype,
            qkv_bias=config.attention_bias,
            output_bias=config.attention_bias,
            qk_norm=True,
        )
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.mlp = (GatedMLP if index in config.dense_layers else SparseMoE)(config, dtype)

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


class Qwen3MoeForCausalLM(CausalLM):
    """Qwen3-30B-A3B, Qwen3-235B-A22B and their kin."""

    layer_type = Qwen3MoeLayer
