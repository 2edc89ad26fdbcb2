// Splits a linear layer into tasks: packed tiles of rows times ranges of columns.
#include "ops.h"
#include "thread_pool.h"

#include <algorithm>
#include <vector>

namespace quire {
namespace {

// Rows whose packed activations are held at once.
constexpr int kRowsAtOnce = 1024;
// Tiles that use a piece of the weight while it is in the cache.
constexpr int kTilesPerBlock = 10;
// Tasks per thread, so that threads end together.
constexpr int kTasksPerThread = 8;

int steps_of(DType type, std::int64_t in_features) {
  return static_cast<int>(type == DType::float32 ? in_features : (in_features + 1) / 2);
}

DotKind kind_of(DType x, DType weight, const KernelTable& table) {
  if (weight == DType::float32) return DotKind::float_panel;
  return x == DType::bfloat16 && table.pair_dot ? DotKind::pair_dot : DotKind::pair_panel;
}

struct RowBlock {
  std::int64_t first_row;
  Tiling tiling;
};

std::vector<RowBlock> split_rows(std::int64_t first, int count, int largest_tile) {
  const int tiles = ceil_div(count, largest_tile);
  const Tiling blocks = Tiling::of(count, largest_tile * std::min(tiles, kTilesPerBlock));
  std::vector<RowBlock> result;
  for (int i = 0; i < blocks.tiles; ++i) {
    result.push_back({first + blocks.first_row(i), Tiling::of(blocks.rows_of(i), largest_tile)});
  }
  return result;
}

// Vectors of columns per task; even, so that tasks begin with a panel.
int columns_per_task(int vectors, std::size_t blocks) {
  const int wanted = ceil_div(kTasksPerThread * num_threads(), static_cast<int>(blocks));
  return std::max(2, vectors / wanted / 2 * 2);
}

void linear_rows(const LinearArgs& a, const KernelTable& table, std::int64_t first, int count) {
  const DotKind kind = kind_of(a.x_type, a.weight_type, table);
  const int steps = steps_of(a.weight_type, a.in_features);
  const std::size_t row_bytes = static_cast<std::size_t>(steps) * step_bytes(kind);
  const std::vector<RowBlock> blocks =
      split_rows(first, count, kind == DotKind::pair_panel ? table.pair_rows : table.float_rows);
  char* packed = static_cast<char*>(thread_scratch(0, static_cast<std::size_t>(count) * row_bytes + 64));

  const auto pack = [&](const RowBlock& block, int tile) {
    const std::int64_t row = block.first_row + block.tiling.first_row(tile);
    const char* x = a.x + row * a.x_stride * static_cast<std::int64_t>(size_of(a.x_type));
    table.pack_tile(x, a.x_type, a.x_stride, block.tiling.rows_of(tile), static_cast<int>(a.in_features),
                    kind, packed + static_cast<std::size_t>(row - first) * row_bytes);
  };
  const std::int64_t num_blocks = static_cast<std::int64_t>(blocks.size());
  const std::int64_t most_tiles = num_blocks * kTilesPerBlock;
  parallel_for(most_tiles, count * a.in_features / (4 * most_tiles), [&](std::int64_t i) {
    const RowBlock& block = blocks[static_cast<std::size_t>(i / kTilesPerBlock)];
    const int tile = static_cast<int>(i % kTilesPerBlock);
    if (tile < block.tiling.tiles) pack(block, tile);
  });

  const int vectors = 2 * static_cast<int>(ceil_div(a.out_features, std::int64_t{kPanel}));
  const int width = columns_per_task(vectors, blocks.size());
  const std::int64_t columns = ceil_div(vectors, width);
  // Neighbouring tasks share columns, so that a weight is read from memory once for all blocks of rows.
  parallel_for(columns * num_blocks, std::int64_t{width} * kLanes * a.in_features, [&](std::int64_t task) {
    const RowBlock& block = blocks[static_cast<std::size_t>(task % num_blocks)];
    const int begin = static_cast<int>(task / num_blocks) * width;
    const int rows = block.tiling.first_row(block.tiling.tiles);
    const std::size_t sums = static_cast<std::size_t>(rows * kPanel) * sizeof(float);
    LinearTask t;
    t.kind = kind;
    t.x = packed + static_cast<std::size_t>(block.first_row - first) * row_bytes;
    t.tiling = block.tiling;
    t.weight = a.packed;
    t.steps = steps;
    t.first_vector = begin;
    t.vectors = std::min(width, vectors - begin);
    t.out_features = a.out_features;
    t.bias = a.bias;
    t.bias_type = a.bias_type;
    t.y = a.y + block.first_row * a.out_features * static_cast<std::int64_t>(size_of(a.y_type));
    t.y_type = a.y_type;
    t.sums = static_cast<float*>(thread_scratch(1, sums));
    table.linear(t);
  });
}

}  // namespace

void pack_weight(const char* weight, DType type, std::int64_t stride, std::int64_t out_features,
                 std::int64_t in_features, char* packed) {
  const KernelTable& table = kernels();
  const std::int64_t panel_bytes = std::int64_t{kPanel} * 4 * steps_of(type, in_features);
  parallel_for(ceil_div(out_features, std::int64_t{kPanel}), kPanel * in_features, [&](std::int64_t panel) {
    const std::int64_t row = panel * kPanel;
    const int count = static_cast<int>(std::min<std::int64_t>(kPanel, out_features - row));
    table.pack_panel(weight + row * stride * static_cast<std::int64_t>(size_of(type)), type, stride, count,
                     static_cast<int>(in_features), packed + panel * panel_bytes);
  });
}

void linear(const LinearArgs& args) {
  const KernelTable& table = kernels();
  for (std::int64_t first = 0; first < args.rows; first += kRowsAtOnce) {
    linear_rows(args, table, first, static_cast<int>(std::min<std::int64_t>(kRowsAtOnce, args.rows - first)));
  }
}

}  // namespace quire
