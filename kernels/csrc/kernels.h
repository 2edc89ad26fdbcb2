// The contract between the drivers (linear.cpp, norm_rope.cpp, attention.cpp), which check, split work over
// threads and know no instruction set, and the kernels (*_kernels.h), which are templates over the vector
// functions of simd_*.h and are compiled once per instruction set by target_*.cpp.
//
// Every result depends on its own row's data alone, bit for bit: tile sizes, task boundaries and threads
// decide only who computes an element and when, never the order of its additions.
#pragma once

#include "common.h"

namespace quire {

// How a matrix product reads its operands. A step is one column of K, or a pair of them.
enum class DotKind : int {
  float_panel,  // fp32 weights, fp32 activations; a step is one column
  pair_panel,   // bf16 weights in pairs, widened in registers, fp32 activations
  pair_dot,     // bf16 weights in pairs, bf16 activations in pairs, bf16 dot products
};

// Rows of activations split evenly into tiles: the first `longer` tiles have `rows` + 1 rows, the others
// `rows`. A tile is stored as [steps][rows of the tile], so that a kernel reads it front to back.
struct Tiling {
  int tiles = 0, rows = 0, longer = 0;

  static Tiling of(int count, int largest) {
    Tiling t;
    t.tiles = ceil_div(count, largest);
    t.rows = count / t.tiles;
    t.longer = count % t.tiles;
    return t;
  }
  int rows_of(int tile) const { return rows + (tile < longer ? 1 : 0); }
  int first_row(int tile) const { return tile * rows + (tile < longer ? tile : longer); }
};

// Bytes of one step of one row of packed activations.
inline std::size_t step_bytes(DotKind kind) { return kind == DotKind::pair_panel ? 8 : 4; }

// One block of rows times a range of columns of a packed weight.
struct LinearTask {
  DotKind kind;
  const char* x;  // packed tiles
  Tiling tiling;
  const char* weight;  // packed panels: [N / 32][steps][32] words
  int steps;
  int first_vector, vectors;  // columns, in units of 16; both even
  std::int64_t out_features;
  const void* bias;  // [N] or null
  DType bias_type;
  char* y;  // row 0 of this block
  DType y_type;
  float* sums;  // scratch: rows of the block * 32
};

// How an int8 or int4 weight [N, K] is stored: panels of 32 output channels, one after the other; in a panel
// one group of columns after the other; in a group the header, 32 scales and, if asymmetric, 32 zero points
// of 16 bits, then the steps of 128 bytes, 4 bytes for each output channel. A step is 4 columns of int8,
// stored as q + 128, or 8 columns of int4: the low nibbles hold the first four. So a panel is read from
// front to back, whatever the number of rows of x. What is past N or K has the scale 0, or is 0 in x.
struct QuantizedLayout {
  int bits;  // 8 or 4
  int in_features, group_size;  // group_size: a multiple of 8; K or more for one group
  ScaleType scale_type;
  bool asymmetric;

  int step_columns() const { return bits == 4 ? 8 : 4; }
  int groups() const { return ceil_div(in_features, group_size); }
  // Columns with those that fill the last step.
  int padded_columns() const { return ceil_div(in_features, step_columns()) * step_columns(); }
  int header_bytes() const {
    return kPanel * (static_cast<int>(size_of(scale_type)) + (asymmetric ? 2 : 0));
  }
  std::int64_t panel_bytes() const {
    return std::int64_t{groups()} * header_bytes() + std::int64_t{padded_columns() / step_columns()} * 128;
  }
  // Of an int4 panel with a byte for each column.
  std::int64_t unpacked_bytes() const {
    return std::int64_t{groups()} * header_bytes() + std::int64_t{padded_columns()} * kPanel;
  }
  // Where a group of a panel begins.
  std::int64_t group_offset(int group) const {
    return std::int64_t{group} * (header_bytes() + group_size / step_columns() * 128);
  }
};

// One tile of rows to be packed: [K][rows] fp32, or [K / 4][rows] words of four int8 with the sum of each
// group and the scale of each row.
struct PackRows {
  QuantizedLayout layout;
  const char* x;
  DType type;
  std::int64_t stride;
  int rows;
  const std::int32_t* order;  // [K], where each column of the weight finds its x, or null
  char* out;
  std::int32_t* sums;  // [groups][rows]; null asks for fp32
  float* scales;       // [rows]
  void* scratch;       // row_scratch() bytes
};
inline std::size_t row_scratch(const QuantizedLayout& l) {
  return static_cast<std::size_t>(l.padded_columns() + 2 * kLanes) * 5;
}

// One block of rows times a range of panels.
struct QuantizedTask {
  QuantizedLayout layout;
  const char* x;               // packed tiles
  const std::int32_t* x_sums;  // of the packed tiles; null for fp32 x
  const float* row_scales;
  Tiling tiling;
  char* unpacked;  // unpacked_bytes() for a panel of int4 that is unpacked once for all tiles, or null
  const char* weight;
  std::int64_t first_panel, panels, out_features;
  const void* bias;  // [N] or null
  DType bias_type;
  char* y;  // row 0 of this block
  DType y_type;
};

// Rows of a dense matrix to be rounded to int8 or int4, see reference.quantize_weight.
struct QuantizeArgs {
  const char* dense;
  DType type;
  std::int64_t stride, out_features, in_features, group_size;
  int bits;
  ScaleType scale_type;
  char* data;    // int8 [N, K], or nibbles [N, ceil(K / 2)]
  char* scales;  // [N, groups]
};

struct NormArgs {
  DType type;
  const char *x, *residual, *weight;  // residual may be null
  char *y, *total;                    // total: x + residual, or null
  std::int64_t x_stride, residual_stride, size;  // in elements; y and total are contiguous
  float eps;
  const char* bias = nullptr;  // of layer norms, or null
};

struct GateArgs {
  DType type;
  const char* x;  // [rows, 2 * size]; of an activation without a gate, [rows, size]
  char* y;        // [rows, size], contiguous
  std::int64_t x_stride, size;
};

// The largest head that RopeArgs' norms and int8 caches take.
constexpr int kLargestNormedHead = 1024;

struct RopeArgs {
  DType type, cache_type;
  const char *q, *k, *v;                           // [T, heads, head_size]
  std::int64_t q_stride, k_stride, v_stride;       // between tokens, in elements
  char* q_out;                                     // contiguous
  const float* cos_sin;                            // [positions, rotary_size]
  std::int64_t rotary_size, num_positions;
  char* cache;                                     // keys; values follow at `value_offset` elements
  std::int64_t value_offset, num_slots;
  const std::int64_t *positions, *slots;
  int num_heads, num_kv_heads, head_size, half, block_size;
  const char *q_norm, *k_norm;                     // [head_size] or null
  float eps;
};

struct AttentionArgs {
  DType type, cache_type;
  const char* q;
  std::int64_t q_stride;  // between tokens, in elements
  char* out;              // contiguous
  const char* cache;      // keys: [num_blocks, num_kv_heads, block_size, head_size]
  std::int64_t value_offset, num_blocks;
  // Not 0: keys and values are no cache but as many elements apart from token to token, packed as the queries
  // are. Then attention goes in both directions: a window counts on each side, and there are no lengths or
  // tables.
  std::int64_t packed_stride;
  const std::int32_t *query_start, *seq_lens, *block_tables;
  std::int64_t table_width;
  int num_seqs, num_heads, num_kv_heads, head_size, block_size;
  float scale, softcap;
  int window;
  const float* sinks;  // [num_heads] or null
};

// A few neighbouring queries of one sequence, with all query heads that share one KV head. Row r is query
// `r / group` and head `kv_head * group + r % group`.
struct AttentionItem {
  int seq, kv_head;
  int first_token, num_tokens;   // rows of q
  int first_position;            // of the first token in its sequence
  int first_chunk, end_chunk;    // chunks of kKeyChunk keys to visit, or to merge
  float* partials;               // null: merge at once and write the output. Else
                                 // [chunk][row][16 + padded head size]: maximum, sum, 14 unused, values
  int first_partial;             // the chunk that `partials` starts with
  const AttentionItem* next;     // what the same thread does next, whose first keys are fetched, or null
};

struct Largest {
  float value;
  std::int64_t index;
};

struct KernelTable {
  int float_rows, pair_rows;  // the most rows in a tile
  bool pair_dot;              // whether bf16 times bf16 uses DotKind::pair_dot

  // Packs rows of x, `stride` elements apart, into one tile; columns past `size` become zeros.
  void (*pack_tile)(const char* x, DType type, std::int64_t stride, int rows, int size, DotKind kind,
                    char* out);
  // Packs up to 32 rows of a weight into a panel; rows past `rows` become zeros.
  void (*pack_panel)(const char* rows, DType type, std::int64_t stride, int count, int size, char* out);
  void (*linear)(const LinearTask& task);
  int quantized_rows;  // the most rows in a tile of quantised products
  void (*pack_quantized_rows)(const PackRows& args);
  void (*quantized_linear)(const QuantizedTask& task);
  void (*quantize_weight)(const QuantizeArgs& args, std::int64_t begin, std::int64_t end);
  void (*rms_norm)(const NormArgs& args, std::int64_t begin, std::int64_t end);
  void (*layer_norm)(const NormArgs& args, std::int64_t begin, std::int64_t end);
  void (*silu_and_mul)(const GateArgs& args, std::int64_t begin, std::int64_t end);
  void (*gelu_and_mul)(const GateArgs& args, std::int64_t begin, std::int64_t end);
  void (*exact_gelu_and_mul)(const GateArgs& args, std::int64_t begin, std::int64_t end);
  void (*gelu)(const GateArgs& args, std::int64_t begin, std::int64_t end);
  void (*exact_gelu)(const GateArgs& args, std::int64_t begin, std::int64_t end);
  void (*rope)(const RopeArgs& args, std::int64_t begin, std::int64_t end);
  std::size_t (*attention_scratch)(const AttentionArgs& args, int rows);
  void (*attention)(const AttentionArgs& args, const AttentionItem& item, void* scratch);
  void (*attention_merge)(const AttentionArgs& args, const AttentionItem& item, void* scratch);
  // The largest of x[begin..end), and the first index that has it; NaN if any value is.
  Largest (*largest)(const float* x, std::int64_t begin, std::int64_t end);
  // What the machine can do at best, for benchmarks.
  void (*probe_read)(const char* data, std::int64_t bytes);
  void (*probe_dot)(DotKind kind, std::int64_t operations);
  void (*probe_int8)(std::int64_t operations);
};

// Null where the compiler cannot make them.
const KernelTable* plain_kernels();
const KernelTable* avx2_kernels();
const KernelTable* avx2_vnni_kernels();
const KernelTable* avx2_evex_kernels();
const KernelTable* avx512_kernels();
const KernelTable* avx512_vnni_kernels();
const KernelTable* avx512_bf16_kernels();

// Those of current_isa().
const KernelTable& kernels();

}  // namespace quire
