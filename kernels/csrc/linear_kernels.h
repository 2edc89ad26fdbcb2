// y = x W^T + bias on packed operands; see dot_tile.h for the arithmetic.

namespace quire::QUIRE_TARGET {

// Steps of K per pass over the tiles: two vectors of columns for so many steps, 32 KiB,
// stay near.
constexpr int kBlockSteps = 256;

inline void pack_tile(const char* x, DType type, std::int64_t stride, int rows, int size, DotKind kind,
                      char* out) {
  const char* pointers[16];
  const std::int64_t bytes = stride * (type == DType::float32 ? 4 : 2);
  for (int r = 0; r < rows; ++r) pointers[r] = x + r * bytes;
  pack_rows(pointers, type, rows, size, kind, out);
}

inline void pack_panel(const char* rows, DType type, std::int64_t stride, int count, int size, char* out) {
  const std::size_t element = type == DType::float32 ? 4 : 2;
  for (int half = 0; half < 2; ++half) {
    const char* pointers[16];
    const int first = half * 16;
    const int present = count - first < 0 ? 0 : count - first < 16 ? count - first : 16;
    for (int r = 0; r < present; ++r) {
      pointers[r] = rows + (first + r) * stride * static_cast<std::int64_t>(element);
    }
    transpose_rows(pointers, present, static_cast<std::size_t>(size) * element, 16,
                   reinterpret_cast<std::uint32_t*>(out) + first, kPanel);
  }
}

template <class T, class B>
void write_rows(const float* sums, int rows, int width, const B* bias, T* y, std::int64_t stride,
                std::int64_t columns) {
  for (int begin = 0; begin < width; begin += kLanes) {
    const std::int64_t left = columns - begin;
    if (left <= 0) return;
    const int n = left < kLanes ? static_cast<int>(left) : kLanes;
    const Vec b = bias ? load_first(bias + begin, n) : zero();
    for (int r = 0; r < rows; ++r) {
      const Vec value = load(sums + r * width + begin);
      store_first(y + r * stride + begin, bias ? add(value, b) : value, n);
    }
  }
}

// Adds the bias to all rows' sums of `width` columns from `column` on, and stores them.
inline void write_block(const LinearTask& t, int width, std::int64_t column) {
  const float* sums = t.sums;
  const int rows = t.tiling.first_row(t.tiling.tiles);
  const std::int64_t columns = t.out_features - column;
  const bool float_bias = t.bias_type == DType::float32;
  const float* bias = t.bias && float_bias ? static_cast<const float*>(t.bias) + column : nullptr;
  const Bf16* bias16 = t.bias && !float_bias ? static_cast<const Bf16*>(t.bias) + column : nullptr;
  if (t.y_type == DType::float32) {
    float* y = reinterpret_cast<float*>(t.y) + column;
    bias16 ? write_rows(sums, rows, width, bias16, y, t.out_features, columns)
           : write_rows(sums, rows, width, bias, y, t.out_features, columns);
  } else {
    Bf16* y = reinterpret_cast<Bf16*>(t.y) + column;
    bias16 ? write_rows(sums, rows, width, bias16, y, t.out_features, columns)
           : write_rows(sums, rows, width, bias, y, t.out_features, columns);
  }
}

// How far ahead of its use a weight is fetched that only one tile reads: 4 KiB of a panel.
constexpr int kFetchAhead = 4096;

// All rows of the task times V vectors of columns. One tile of rows waits for memory and fetches a fixed
// distance ahead in the stream of panels; several share the fetching of what they read next, so that it
// keeps pace with their arithmetic.
template <int V, int R>
void linear_columns(const LinearTask& t, int vector) {
  constexpr std::int64_t kStepBytes = kPanel * 4;
  const char* weight = t.weight + vector / 2 * kStepBytes * t.steps + vector % 2 * kLanes * 4;
  const int block = t.tiling.tiles == 1 ? t.steps : kBlockSteps;
  const std::int64_t x_step = static_cast<std::int64_t>(step_bytes(t.kind));
  const DotTile shorter = find_tile<V, R>(t.kind, t.tiling.rows);
  const DotTile longer = t.tiling.longer ? find_tile<V, R>(t.kind, t.tiling.rows + 1) : nullptr;
  for (int begin = 0; begin < t.steps; begin += block) {
    const int steps = t.steps - begin < block ? t.steps - begin : block;
    for (int tile = 0; tile < t.tiling.tiles; ++tile) {
      const std::int64_t first = t.tiling.first_row(tile), rows = t.tiling.rows_of(tile);
      const char* x = t.x + (first * t.steps + rows * begin) * x_step;
      const DotTile dot = tile < t.tiling.longer ? longer : shorter;
      const char* w = weight + begin * kStepBytes;
      const std::int64_t bytes = steps * kStepBytes;
      const Ahead ahead = t.tiling.tiles == 1
                              ? Ahead{w + kFetchAhead, static_cast<int>(kStepBytes)}
                              : Ahead{w + bytes + bytes * tile / t.tiling.tiles,
                                      static_cast<int>(kStepBytes) / t.tiling.tiles};
      dot(x, w, steps, t.sums + first * V * kLanes, begin == 0, ahead);
    }
  }
  write_block(t, V * kLanes, std::int64_t{vector} * kLanes);
}

inline void linear(const LinearTask& t) {
  const bool few = t.tiling.rows_of(0) <= kWideRows;
  int vector = t.first_vector;
  const int end = t.first_vector + t.vectors;
  while (vector < end) {
    if (few) {
      linear_columns<kWideVectors, kWideRows>(t, vector);
      vector += kWideVectors;
    } else {
      linear_columns<kTileVectors, kFloatRows>(t, vector);
      vector += kTileVectors;
    }
  }
}

}  // namespace quire::QUIRE_TARGET
