"""What config.json says about rotary position embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from ..errors import ModelError
from .config_reader import Fields

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding and how it is stretched to longer contexts.

    Attributes:
        kind: The scaling method.
        theta: Base of the frequencies.
        factor: By how much the context is stretched; 1 for the default kind.
        original_max_position: Context length before stretching.
        low_freq_factor: llama3 only.
        high_freq_factor: llama3 only.
        attention_factor: yarn only: the factor on cosines and sines, if the config gives it.
        beta_fast: yarn only.
        beta_slow: yarn only.
        mscale: yarn only, as is `mscale_all_dim`: both together give the attention factor.
        mscale_all_dim: See `mscale`.
        truncate: yarn only: whether the bounds of its ramp are rounded to whole channels.
    """

    kind: RopeKind = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_max_position: int = 2048
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


def read_rope(config: Fields, max_position: int) -> RopeConfig:
    """The position embedding that config.json asks for.

    Raises:
        ModelError: A value is missing, malformed or not supported.
    """
    nothing = Fields({}, config.source)
    rope = config.object("rope_scaling") or config.object("rope_parameters") or nothing
    kind = rope.string("rope_type", rope.string("type", "default"))
    if kind not in get_args(RopeKind):
        raise ModelError(f"{rope.source}: rope_type {kind!r} is not one of {', '.join(get_args(RopeKind))}.")
    theta = rope.number("rope_theta", config.number("rope_theta", 10000.0))
    for fields in (config, rope):
        if fields.number("partial_rotary_factor", 1.0) != 1.0:
            raise fields.error("partial_rotary_factor", "1 (partial rotation is not supported)")
    if kind == "default":
        return RopeConfig(theta=theta, original_max_position=max_position)
    original = max_position
    if kind in ("llama3", "yarn"):
        # Given beside the rope parameters, it has priority, as in transformers.
        original = rope.integer("original_max_position_embeddings", max_position, high=1 << 31)
        original = config.integer("original_max_position_embeddings", original, high=1 << 31)
    factor = rope.optional_number("factor")
    if factor is None and kind == "yarn":
        factor = max_position / original
    low, high = rope.number("low_freq_factor", 1.0), rope.number("high_freq_factor", 4.0)
    if kind == "llama3" and high <= low:
        raise rope.error("high_freq_factor", f"greater than low_freq_factor ({low:g})")
    return RopeConfig(
        kind=cast(RopeKind, kind),
        theta=theta,
        factor=rope.number("factor") if factor is None else factor,
        original_max_position=original,
        low_freq_factor=low,
        high_freq_factor=high,
        attention_factor=rope.optional_number("attention_factor"),
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        mscale=rope.optional_number("mscale", low=-1.0),
        mscale_all_dim=rope.optional_number("mscale_all_dim", low=-1.0),
        truncate=rope.boolean("truncate", True),
    )
