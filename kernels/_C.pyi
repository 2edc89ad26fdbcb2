# ruff: noqa: N999 - C extensions are called _C
"""The C++ extension, as csrc/module.cpp defines it.

An address is `Tensor.data_ptr()`, 0 for None. A dtype is 0 for float32 and 1 for bfloat16. Strides count
elements. All functions but the small ones release the GIL. Nothing is checked here that `cpu.py` can check.
"""

def linear(
    x: int,
    type: int,
    x_stride: int,
    rows: int,
    packed: int,
    weight_type: int,
    out_features: int,
    in_features: int,
    bias: int,
    bias_type: int,
    y: int,
    /,
) -> None: ...
def pack_weight(
    weight: int, type: int, stride: int, out_features: int, in_features: int, packed: int, /
) -> None: ...
def rms_norm(
    x: int,
    x_stride: int,
    residual: int,
    residual_stride: int,
    weight: int,
    y: int,
    total: int,
    type: int,
    rows: int,
    size: int,
    eps: float,
    /,
) -> None:
    """`total` receives x + residual, unless `residual` is 0."""

def silu_and_mul(x: int, x_stride: int, y: int, type: int, rows: int, size: int, /) -> None: ...
def gelu_and_mul(x: int, x_stride: int, y: int, type: int, rows: int, size: int, /) -> None: ...
def rope_and_cache_write(
    q: int,
    q_stride: int,
    k: int,
    k_stride: int,
    v: int,
    v_stride: int,
    q_out: int,
    type: int,
    cos_sin: int,
    rotary_size: int,
    num_positions: int,
    half: int,
    cache: int,
    cache_type: int,
    value_offset: int,
    num_slots: int,
    positions: int,
    slots: int,
    tokens: int,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    block_size: int,
    q_norm: int,
    k_norm: int,
    eps: float,
    /,
) -> None:
    """Raises IndexError for a position or slot out of range, before anything is written."""

def paged_attention(
    q: int,
    q_stride: int,
    out: int,
    type: int,
    cache: int,
    cache_type: int,
    value_offset: int,
    num_blocks: int,
    query_start: int,
    seq_lens: int,
    block_tables: int,
    table_width: int,
    num_seqs: int,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    block_size: int,
    scale: float,
    window: int,
    softcap: float,
    sinks: int,
    /,
) -> None:
    """Raises IndexError if a block table leaves the cache, before anything is computed."""

def probe(kind: str, amount: int, /) -> float:
    """Seconds that all threads need for a task that only the machine limits; for benchmarks.

    `read` reads a buffer of `amount` bytes; `float` and `pair` do `amount` floating-point operations, as
    fp32 multiply-adds and as bf16 dot products (or what replaces them).
    """

def num_threads() -> int: ...
def set_num_threads(count: int, /) -> None: ...
def cpu_features() -> dict[str, bool]: ...
def isa() -> tuple[str, bool]:
    """The instruction set in use (plain, avx2 or avx512), and whether it uses bf16 dot products.

    Raises RuntimeError if `QUIRE_ISA` names one that this CPU lacks.
    """

def set_isa(name: str, bf16: bool, /) -> None:
    """Forces an instruction set; an empty name returns to `QUIRE_ISA`. No kernel may be running."""
