"""The `cpp` column: every op on the CPU, in C++ (`csrc/`), with the signatures of `reference`.

This package owns the tensors: it checks dtypes, shapes and strides and hands addresses to `_C`, which
imports no torch. Rows may be strided (q, k and v are views of one fused projection); what is not
contiguous within a row is copied first.

A result never depends on what shares its batch, nor on the number of threads: each row of each op is
computed in an order of its own, bit for bit (see `csrc/kernels.h`).

The instruction set is chosen when the first op runs; `QUIRE_ISA` forces one: plain, avx2, avx2_vnni,
avx512, avx512_vnni or avx512_bf16.
"""

from .extension import cpu_features, isa, num_threads, set_num_threads, unavailable
from .linear import (
    PACKED_LAYOUT,
    PackedDense,
    PackedQuantized,
    embedding,
    linear,
    prepare,
    quantize_weight,
)
from .ops import (
    add_layer_norm,
    add_rms_norm,
    argmax,
    gelu,
    gelu_and_mul,
    layer_norm,
    packed_attention,
    paged_attention,
    rms_norm,
    rope_and_cache_write,
    silu_and_mul,
)
from .recorder import NotRecordable, RecordedForward

__all__ = [
    "PACKED_LAYOUT",
    "NotRecordable",
    "PackedDense",
    "PackedQuantized",
    "RecordedForward",
    "add_layer_norm",
    "add_rms_norm",
    "argmax",
    "cpu_features",
    "embedding",
    "gelu",
    "gelu_and_mul",
    "isa",
    "layer_norm",
    "linear",
    "num_threads",
    "packed_attention",
    "paged_attention",
    "prepare",
    "quantize_weight",
    "rms_norm",
    "rope_and_cache_write",
    "set_num_threads",
    "silu_and_mul",
    "unavailable",
]
