"""What kernels take besides plain tensors: a packed linear weight, and where each token sits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

CACHE_SCALE_BYTES = 4
"""An fp32 scale behind each head of an int8 KV cache."""

WeightFormat = Literal["float32", "bfloat16", "float16", "int8", "int4"]

FLOAT_FORMATS: dict[torch.dtype, WeightFormat] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@dataclass(slots=True)
class LinearWeight:
    """The weight of one linear layer, `y = x @ W.T`, in one canonical form per format.

    Checkpoint layouts (AWQ, GPTQ, …) are converted to this form while loading, so kernels know
    nothing of checkpoints.

    Attributes:
        format: How `data` stores the weight.
        out_features: N, rows of W.
        in_features: K, columns of W.
        data: Float formats: `[N, K]`. int8: int8 `[N, K]`. int4: uint8 `[N, ceil(K / 2)]`, where the
            low nibble of byte j is column 2j and the high nibble is column 2j + 1, values 0..15.
        scales: `[N, ceil(K / group_size)]` in float32, bfloat16 or float16 for int8 and int4, else None.
        zeros: The zero point of each group, int16 in the shape of `scales`, or None for the symmetric
            forms (zero point 0 for int8, 8 for int4). `W = (q - zero) * scale`.
        group_size: Columns that share a scale, a multiple of 8 or at least K (one scale per row); the
            last group may be shorter. 0 for float formats.
        order: int32 `[K]`, or None: column k of `data` is column `order[k]` of W (the activation order
            of GPTQ's desc_act, which sorts columns into groups by their importance).
        int8_activations: Whether x is rounded to int8, each row with a scale of its own, so that the
            product is computed in integers; int8 and int4 formats only.
        packed: An implementation's own repacking of `data`, made once by that implementation.
    """

    format: WeightFormat
    out_features: int
    in_features: int
    data: torch.Tensor
    scales: torch.Tensor | None = None
    zeros: torch.Tensor | None = None
    group_size: int = 0
    order: torch.Tensor | None = None
    int8_activations: bool = False
    packed: Any = None

    @classmethod
    def from_dense(cls, weight: torch.Tensor) -> LinearWeight:
        """Wraps a float matrix `[N, K]` without copying it."""
        return cls(FLOAT_FORMATS[weight.dtype], weight.shape[0], weight.shape[1], weight)


@dataclass(slots=True)
class AttentionMetadata:
    """Where each token of a step belongs: which sequence, which position, which cache slot.

    A step holds T tokens of S sequences, packed without padding: sequence s owns rows
    `query_start[s]:query_start[s + 1]`, the last of its `seq_lens[s]` known tokens. A decoding
    sequence owns one row, a prefilling one owns a chunk; kernels see no other difference.

    Attributes:
        positions: int64 `[T]`, each token's position in its sequence.
        slot_mapping: int64 `[T]`, each token's cache slot: `block * block_size + offset`.
        query_start: int32 `[S + 1]`.
        seq_lens: int32 `[S]`, tokens in the cache after this step, this step's included.
        block_tables: int32 `[S, max_blocks]`; entries past a sequence's last block are undefined.
        block_size: Tokens per cache block.
        max_query_len: Longest chunk of the step.
        max_seq_len: Longest `seq_lens` of the step.
    """

    positions: torch.Tensor
    slot_mapping: torch.Tensor
    query_start: torch.Tensor
    seq_lens: torch.Tensor
    block_tables: torch.Tensor
    block_size: int
    max_query_len: int
    max_seq_len: int


@dataclass(slots=True)
class PackedSequences:
    """Whole sequences, one behind the other without padding, as encoders compute them.

    Attributes:
        starts: int32 `[S + 1]`: sequence s is rows `starts[s]:starts[s + 1]`.
        longest: Tokens of the longest one.
    """

    starts: torch.Tensor
    longest: int
