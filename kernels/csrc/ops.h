// The ops as module.cpp calls them: pointers and sizes in, results written in place. They run on the pool's
// threads and hold no lock on Python.
#pragma once

#include "kernels.h"

#include <string>

namespace quire {

// Packs [N, K] rows, `stride` elements apart, into [ceil(N / 32)][steps][32] words of 4 bytes. A word is one
// fp32 or a pair of bf16 of neighbouring columns; rows and columns past the end become zeros.
void pack_weight(const char* weight, DType type, std::int64_t stride, std::int64_t out_features,
                 std::int64_t in_features, char* packed);

struct LinearArgs {
  const char* x;  // [M, K], rows `x_stride` elements apart
  DType x_type;
  std::int64_t x_stride, rows;
  const char* packed;
  DType weight_type;
  std::int64_t out_features, in_features;
  const void* bias;  // [N] or null
  DType bias_type;
  char* y;  // [M, N] contiguous
  DType y_type;
};
void linear(const LinearArgs& args);

// Packs a weight in its canonical form (kernels/types.py) as QuantizedLayout says.
struct PackQuantizedArgs {
  QuantizedLayout layout;
  std::int64_t out_features;
  const char* data;           // int8 [N, K], or nibbles [N, ceil(K / 2)]
  const char* scales;         // [N, groups]
  const std::int16_t* zeros;  // [N, groups] or null
  char* packed;
};
void pack_quantized(const PackQuantizedArgs& args);

void quantize_weight(const QuantizeArgs& args);

struct QuantizedLinearArgs {
  QuantizedLayout layout;
  bool int8_activations;
  const char* x;  // [M, K], rows `x_stride` elements apart
  DType x_type;
  std::int64_t x_stride, rows;
  const char* packed;
  std::int64_t out_features;
  const std::int32_t* order;  // [K] or null
  const void* bias;           // [N] or null
  DType bias_type;
  char* y;  // [M, N] contiguous
  DType y_type;
};
void quantized_linear(const QuantizedLinearArgs& args);

// Single rows of a packed weight. Throws std::out_of_range for a row that it does not have.
struct RowsArgs {
  bool quantized;
  DType weight_type;         // if not quantised
  QuantizedLayout layout;    // if not quantised, `in_features` alone counts
  const char* packed;
  std::int64_t out_features;
  const std::int32_t* order;  // [K] or null
  const std::int64_t* ids;
  char* out;  // [count, K]
  DType out_type;
};
void read_rows(const RowsArgs& args, std::int64_t count);

void rms_norm(const NormArgs& args, std::int64_t rows);
void silu_and_mul(const GateArgs& args, std::int64_t rows);
void gelu_and_mul(const GateArgs& args, std::int64_t rows);
void exact_gelu_and_mul(const GateArgs& args, std::int64_t rows);
void gelu(const GateArgs& args, std::int64_t rows, bool exact);
void layer_norm(const NormArgs& args, std::int64_t rows);

// Throws std::out_of_range for a position or slot outside of its table, before anything is written.
void rope_and_cache_write(const RopeArgs& args, std::int64_t tokens);

// Throws std::out_of_range for a block outside of the cache, before anything is computed. Where keys and
// values are packed, `query_start` has been checked.
void paged_attention(const AttentionArgs& args);

// The largest value of each row of [rows, columns], and its first index; NaN if the row has one.
void argmax(const float* x, std::int64_t rows, std::int64_t columns, float* values, std::int64_t* indices);

// Seconds that all threads need for a task that only the machine limits: see _C.pyi.
double probe(const std::string& kind, std::int64_t amount);

}  // namespace quire
