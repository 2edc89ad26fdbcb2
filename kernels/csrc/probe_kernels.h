// What benchmarks compare kernels with: reading memory, and arithmetic on registers.

namespace quire::QUIRE_TARGET {

inline void probe_read(const char* data, std::int64_t bytes) {
  const float* p = reinterpret_cast<const float*>(data);
  Vec sums[4] = {zero(), zero(), zero(), zero()};
  for (std::int64_t i = 0; i + 64 <= bytes / 4; i += 64) {
    __builtin_prefetch(p + i + 1024);
    __builtin_prefetch(p + i + 1040);
    __builtin_prefetch(p + i + 1056);
    __builtin_prefetch(p + i + 1072);
    QUIRE_UNROLL(4)
    for (int j = 0; j < 4; ++j) sums[j] = max(sums[j], load(p + i + j * kLanes));
  }
  volatile float sink = largest(max(max(sums[0], sums[1]), max(sums[2], sums[3])));
  (void)sink;
}

// A tile whose operands stay in the L1 cache.
inline void probe_dot(DotKind kind, std::int64_t operations) {
  constexpr int steps = 32;
  alignas(64) static const char x[steps * 16 * 8] = {}, w[steps * kPanel * 4] = {};
  alignas(64) float sums[16 * kTileVectors * kLanes];
  const int rows = largest_tile(kind);
  const DotTile tile = find_tile<kTileVectors, kFloatRows>(kind, rows);
  const std::int64_t columns = kind == DotKind::float_panel ? 1 : 2;
  const std::int64_t each = 2 * rows * kTileVectors * kLanes * columns * steps;
  for (std::int64_t done = 0; done < operations; done += each) tile(x, w, steps, sums, true, {w, 0});
}

// The same for int8 products. More rows than a tile of quantised products has, so that nothing but the
// multiplier can be what limits.
inline void probe_int8(std::int64_t operations) {
  constexpr int kRows = kQuantizedRows == 6 ? 12 : kQuantizedRows * 2;
  alignas(64) volatile char bytes[64] = {};
  const Ints w = load_ints(const_cast<const char*>(bytes)), x = w;
  Ints sums[kRows];
  QUIRE_UNROLL(16)
  for (int r = 0; r < kRows; ++r) sums[r] = set1_int(r);  // different, or the compiler computes one
  for (std::int64_t done = 0; done < operations; done += kRows * kLanes * 4 * 2) {
    QUIRE_UNROLL(16)
    for (int r = 0; r < kRows; ++r) sums[r] = dot_nibbles(sums[r], w, x);
  }
  Vec total = zero();
  for (int r = 0; r < kRows; ++r) total = add(total, to_float(sums[r]));
  volatile float sink = sum(total);
  (void)sink;
}

}  // namespace quire::QUIRE_TARGET
