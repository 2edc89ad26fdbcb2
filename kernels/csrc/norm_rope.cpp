// Splits the row-wise ops over threads, and checks what RoPE writes to.
#include "ops.h"
#include "thread_pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace quire {
namespace {

// Calls body(begin, end) for blocks of rows, `work` elements a row.
template <class F>
void for_rows(std::int64_t rows, std::int64_t work, const F& body) {
  const std::int64_t block = std::max<std::int64_t>(1, 4096 / std::max<std::int64_t>(1, work));
  parallel_for(ceil_div(rows, block), block * work, [&](std::int64_t i) {
    body(i * block, std::min(rows, (i + 1) * block));
  });
}

void check(const char* what, std::int64_t value, std::int64_t end) {
  if (value < 0 || value >= end) {
    throw std::out_of_range(std::string(what) + " " + std::to_string(value) + " is not in [0, " +
                            std::to_string(end) + ")");
  }
}

}  // namespace

void rms_norm(const NormArgs& args, std::int64_t rows) {
  const KernelTable& table = kernels();
  for_rows(rows, args.size, [&](std::int64_t begin, std::int64_t end) { table.rms_norm(args, begin, end); });
}

void layer_norm(const NormArgs& args, std::int64_t rows) {
  const KernelTable& table = kernels();
  const auto body = [&](std::int64_t begin, std::int64_t end) { table.layer_norm(args, begin, end); };
  for_rows(rows, args.size, body);
}

void silu_and_mul(const GateArgs& args, std::int64_t rows) {
  const KernelTable& table = kernels();
  const auto body = [&](std::int64_t begin, std::int64_t end) { table.silu_and_mul(args, begin, end); };
  for_rows(rows, 4 * args.size, body);
}

void gelu_and_mul(const GateArgs& args, std::int64_t rows) {
  const KernelTable& table = kernels();
  const auto body = [&](std::int64_t begin, std::int64_t end) { table.gelu_and_mul(args, begin, end); };
  for_rows(rows, 4 * args.size, body);
}

void exact_gelu_and_mul(const GateArgs& args, std::int64_t rows) {
  const KernelTable& table = kernels();
  const auto body = [&](std::int64_t begin, std::int64_t end) { table.exact_gelu_and_mul(args, begin, end); };
  for_rows(rows, 4 * args.size, body);
}

void gelu(const GateArgs& args, std::int64_t rows, bool exact) {
  const KernelTable& table = kernels();
  const auto kernel = exact ? table.exact_gelu : table.gelu;
  for_rows(rows, 4 * args.size, [&](std::int64_t begin, std::int64_t end) { kernel(args, begin, end); });
}

void rope_and_cache_write(const RopeArgs& args, std::int64_t tokens) {
  if ((args.q_norm || args.k_norm) && args.head_size > kLargestNormedHead) {
    throw std::invalid_argument("head norms take heads of at most " + std::to_string(kLargestNormedHead) +
                                " channels, got " + std::to_string(args.head_size));
  }
  if (args.cache_type == DType::int8 && args.head_size > kLargestNormedHead) {
    throw std::invalid_argument("int8 caches take heads of at most " + std::to_string(kLargestNormedHead) +
                                " channels, got " + std::to_string(args.head_size));
  }
  for (std::int64_t i = 0; i < tokens; ++i) {
    check("position", args.positions[i], args.num_positions);
    check("cache slot", args.slots[i], args.num_slots);
  }
  const KernelTable& table = kernels();
  const std::int64_t work = std::int64_t{args.num_heads + 2 * args.num_kv_heads} * args.head_size;
  for_rows(tokens, work, [&](std::int64_t begin, std::int64_t end) { table.rope(args, begin, end); });
}

}  // namespace quire
