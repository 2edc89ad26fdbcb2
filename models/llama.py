"""Llama (Touvron et al., 2023): pre-norm layers of rotary attention and SwiGLU."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.types import AttentionMetadata
from .causal_lm import CausalLM, DecoderLayer
from .config import ModelConfig
from .layers import Attention, GatedMLP, RMSNorm


class LlamaLayer(DecoderLayer):
    """`h = x + attention(norm(x))`, then `h + mlp(norm(h))`."""

    def __init__(self, config: ModelConfig, index: int, dtype: torch.dtype) -> None:
        bias = config.attention_bias
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.self_attn = Attention(config, index, dtype, qkv_bias=bias, output_bias=bias)
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


class LlamaForCausalLM(CausalLM):
    """Llama 1 to 3.3, and the many models of the same shape."""

    layer_type = LlamaLayer
