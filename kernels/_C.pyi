# ruff: noqa: N999 - C extensions are called _C
"""The C++ extension, as csrc/module.cpp defines it.

An address is `Tensor.data_ptr()`, 0 for None. A dtype is 0 for float32 and 1 for bfloat16 (and,
of KV caches, 2 for int8). Strides count
elements. All functions but the small ones release the GIL. Nothing is checked here that `kernels/cpu` can.

A layout of a quantised weight is six numbers: bits (8 or 4), N, K, the group size, the dtype of the scales
(0, 1, and 2 for float16) and whether there are zero points.

While a program records, the ops (linear to paged_attention) leave themselves in it and compute nothing.
"""

class Program:
    """A recorded forward pass, see csrc/program.h."""

    @property
    def num_ops(self) -> int: ...
    def run(
        self,
        input_ids: int,
        positions: int,
        slots: int,
        tokens: int,
        query_start: int,
        seq_lens: int,
        block_tables: int,
        table_width: int,
        num_seqs: int,
        /,
    ) -> None:
        """Replays the ops on a step's inputs. Raises ValueError for more tokens than it was recorded with."""

    def profile(
        self,
        input_ids: int,
        positions: int,
        slots: int,
        tokens: int,
        query_start: int,
        seq_lens: int,
        block_tables: int,
        table_width: int,
        num_seqs: int,
        /,
    ) -> list[tuple[str, float]]:
        """The same; returns each op's name and seconds."""

def start_recording(
    input_ids: int,
    positions: int,
    slots: int,
    tokens: int,
    query_start: int,
    seq_lens: int,
    block_tables: int,
    table_width: int,
    num_seqs: int,
    /,
) -> Program:
    """Ops that take other ids, positions, slots or sequences than these are refused with RuntimeError.

    `tokens` is the most that a replay may have. Raises RuntimeError if a program is being recorded already.
    """

def stop_recording() -> None: ...
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
    y_type: int,
    /,
) -> None: ...
def quantized_linear(
    x: int,
    type: int,
    x_stride: int,
    rows: int,
    packed: int,
    bits: int,
    out_features: int,
    in_features: int,
    group_size: int,
    scale_type: int,
    asymmetric: bool,
    int8_activations: bool,
    order: int,
    bias: int,
    bias_type: int,
    y: int,
    y_type: int,
    /,
) -> None: ...
def read_dense_rows(
    ids: int,
    count: int,
    packed: int,
    weight_type: int,
    out_features: int,
    in_features: int,
    out: int,
    out_type: int,
    /,
) -> None:
    """Raises IndexError for a row that is not there."""

def read_quantized_rows(
    ids: int,
    count: int,
    packed: int,
    bits: int,
    out_features: int,
    in_features: int,
    group_size: int,
    scale_type: int,
    asymmetric: bool,
    order: int,
    out: int,
    out_type: int,
    /,
) -> None:
    """Raises IndexError for a row that is not there."""

def argmax(x: int, rows: int, columns: int, values: int, indices: int, /) -> None:
    """x is fp32, the indices are int64."""

def packed_bytes(
    bits: int,
    out_features: int,
    in_features: int,
    group_size: int,
    scale_type: int,
    asymmetric: bool,
    /,
) -> int:
    """Bytes of a packed quantised weight."""

def pack_quantized(
    data: int,
    scales: int,
    zeros: int,
    bits: int,
    out_features: int,
    in_features: int,
    group_size: int,
    scale_type: int,
    packed: int,
    /,
) -> None: ...
def quantize_weight(
    dense: int,
    type: int,
    stride: int,
    out_features: int,
    in_features: int,
    group_size: int,
    bits: int,
    scale_type: int,
    data: int,
    scales: int,
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

def layer_norm(
    x: int,
    x_stride: int,
    residual: int,
    residual_stride: int,
    weight: int,
    bias: int,
    y: int,
    total: int,
    type: int,
    rows: int,
    size: int,
    eps: float,
    /,
) -> None:
    """As `rms_norm`; `bias` may be 0."""

def gelu(x: int, x_stride: int, y: int, type: int, rows: int, size: int, exact: bool, /) -> None: ...
def exact_gelu_and_mul(x: int, x_stride: int, y: int, type: int, rows: int, size: int, /) -> None: ...
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

def packed_attention(
    q: int,
    q_stride: int,
    k: int,
    kv_stride: int,
    value_offset: int,
    out: int,
    type: int,
    tokens: int,
    query_start: int,
    num_seqs: int,
    num_heads: int,
    num_kv_heads: int,
    head_size: int,
    scale: float,
    window: int,
    /,
) -> None:
    """Values lie `value_offset` elements behind the keys. It is never recorded."""

def paged_attention(
    q: int,
    q_stride: int,
    out: int,
    type: int,
    tokens: int,
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

    `read` reads a buffer of `amount` bytes; `float`, `pair` and `int8` do `amount` operations, as fp32
    multiply-adds, as bf16 dot products and as int8 dot products (or what replaces them).
    """

def num_threads() -> int: ...
def set_num_threads(count: int, /) -> None: ...
def cpu_features() -> dict[str, bool]: ...
def available_isas() -> list[str]:
    """The instruction sets that this CPU and this build have."""

def isa() -> str:
    """The instruction set in use. Raises RuntimeError if `QUIRE_ISA` names one that cannot run here."""

def set_isa(name: str, /) -> None:
    """Forces an instruction set; an empty name returns to `QUIRE_ISA`. No kernel may be running."""
