// Splits rows of logits over threads.
#include "ops.h"
#include "thread_pool.h"

#include <algorithm>
#include <vector>

namespace quire {

void argmax(const float* x, std::int64_t rows, std::int64_t columns, float* values, std::int64_t* indices) {
  constexpr std::int64_t kPiece = 16384;
  const KernelTable& table = kernels();
  const std::int64_t pieces = ceil_div(columns, kPiece);
  std::vector<Largest> found(static_cast<std::size_t>(rows * pieces));
  parallel_for(rows * pieces, kPiece, [&](std::int64_t i) {
    const std::int64_t begin = i % pieces * kPiece;
    found[static_cast<std::size_t>(i)] =
        table.largest(x + i / pieces * columns, begin, std::min(columns, begin + kPiece));
  });
  for (std::int64_t row = 0; row < rows; ++row) {
    Largest best = found[static_cast<std::size_t>(row * pieces)];
    for (std::int64_t i = 1; i < pieces; ++i) {
      const Largest& other = found[static_cast<std::size_t>(row * pieces + i)];
      if (other.value > best.value || other.value != other.value) best = other;
      if (best.value != best.value) break;
    }
    values[row] = best.value;
    indices[row] = best.index;
  }
}

}  // namespace quire
