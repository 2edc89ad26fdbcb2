"""Rotary position embeddings (RoFormer, Su et al., 2021) and the ways to stretch them.

Every method yields one inverse frequency per pair of channels and a factor on the cosines and
sines; kernels see only the table made of them, so a new method is one function here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .config import RopeConfig


def cos_sin_table(rope: RopeConfig, rotary_dim: int, max_len: int) -> Tensor:
    """The table that `ops.rope_and_cache_write` reads, on torch's default device.

    The dynamic kind takes the base of a sequence as long as `max_len` for every position, so that
    keys in the cache stay valid as a sequence grows and equal prefixes have equal keys. Up to the
    original length nothing is scaled, as in transformers.

    Args:
        rope: Method and parameters.
        rotary_dim: Channels that are rotated, even.
        max_len: Positions, the longest sequence that the engine admits.

    Returns:
        fp32 `[max_len, rotary_dim]`: the cosines of all pairs, then their sines.
    """
    device = torch.get_default_device()
    # Made on the CPU whatever the device: the same bits everywhere, and torch's meta device would
    # import its symbolic machinery, which takes longer than loading a small model.
    with torch.device("cpu"):
        frequencies, factor = inverse_frequencies(rope, rotary_dim, max_len)
        angles = torch.arange(max_len, dtype=torch.float32)[:, None] * frequencies
        table = torch.cat((angles.cos() * factor, angles.sin() * factor), -1)
    return table.to(device)


def inverse_frequencies(rope: RopeConfig, rotary_dim: int, max_len: int) -> tuple[Tensor, float]:
    """The angles per position, fp32 `[rotary_dim / 2]`, and the factor on cosines and sines."""
    if rope.kind == "linear":
        return _plain(rope.theta, rotary_dim) / rope.factor, 1.0
    if rope.kind == "dynamic":
        return _plain(_ntk_theta(rope, rotary_dim, max_len), rotary_dim), 1.0
    if rope.kind == "llama3":
        return _llama3(rope, rotary_dim), 1.0
    if rope.kind == "yarn":
        return _yarn(rope, rotary_dim)
    return _plain(rope.theta, rotary_dim), 1.0


def _plain(theta: float, dim: int) -> Tensor:
    """`theta ** (-2i / dim)` for pair i."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)


def _ntk_theta(rope: RopeConfig, dim: int, max_len: int) -> float:
    """The base of dynamic NTK scaling, which grows with the length beyond the original one."""
    if max_len <= rope.original_max_position or dim <= 2:
        return rope.theta
    stretch = rope.factor * max_len / rope.original_max_position - (rope.factor - 1)
    return rope.theta * stretch ** (dim / (dim - 2))


def _llama3(rope: RopeConfig, dim: int) -> Tensor:
    """Llama 3.1: divides low frequencies by the factor, keeps high ones, blends between."""
    plain = _plain(rope.theta, dim)
    turns = rope.original_max_position * plain / (2 * math.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * plain / rope.factor + blend * plain


def _yarn(rope: RopeConfig, dim: int) -> tuple[Tensor, float]:
    """YaRN (Peng et al., 2023): channels that turn often keep their frequency, slow ones stretch."""

    def channel(turns: float) -> float:
        """The pair that makes so many turns over the original length."""
        return dim * math.log(rope.original_max_position / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = channel(rope.beta_fast), channel(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    width = high - low if high != low else 0.001
    stretched = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
    plain = _plain(rope.theta, dim)
    return plain / rope.factor * stretched + plain * (1 - stretched), _yarn_attention_factor(rope)


def _yarn_attention_factor(rope: RopeConfig) -> float:
    """The factor on cosines and sines, which makes up for the flatter attention of long contexts."""
    if rope.attention_factor is not None:
        return rope.attention_factor

    def magnitude(mscale: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * mscale * math.log(rope.factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim)
    return magnitude(1.0)
