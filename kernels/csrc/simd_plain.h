// Sixteen floats in plain C++, four at a time, so that a compiler finds SSE2 or NEON in them. This file
// also says what each vector function means; simd_avx2.h and simd_avx512.h are the same in intrinsics.

namespace quire::QUIRE_TARGET {

struct Vec {
  float lane[16];
};

#define QUIRE_LANES(expression)                 \
  Vec r;                                        \
  for (int i = 0; i < 16; ++i) r.lane[i] = expression; \
  return r

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(std::uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

inline Vec set1(float x) { QUIRE_LANES(x); }
inline Vec zero() { return set1(0.0f); }
inline Vec add(const Vec& a, const Vec& b) { QUIRE_LANES(a.lane[i] + b.lane[i]); }
inline Vec sub(const Vec& a, const Vec& b) { QUIRE_LANES(a.lane[i] - b.lane[i]); }
inline Vec mul(const Vec& a, const Vec& b) { QUIRE_LANES(a.lane[i] * b.lane[i]); }
inline Vec div(const Vec& a, const Vec& b) { QUIRE_LANES(a.lane[i] / b.lane[i]); }

// a * b + c; fused where the instruction set can.
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) { QUIRE_LANES(a.lane[i] * b.lane[i] + c.lane[i]); }

// If either is NaN, the second: max(limit, x) keeps a NaN in x.
inline Vec max(const Vec& a, const Vec& b) { QUIRE_LANES(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
inline Vec min(const Vec& a, const Vec& b) { QUIRE_LANES(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
inline Vec abs(const Vec& a) { QUIRE_LANES(float_of(bits_of(a.lane[i]) & 0x7fffffffu)); }

// a < b ? yes : no, lane by lane; NaN compares false.
inline Vec where_less(const Vec& a, const Vec& b, const Vec& yes, const Vec& no) {
  QUIRE_LANES(a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]);
}

// Lanes begin..end - 1 of x; the others become `fill`.
inline Vec keep_lanes(const Vec& x, int begin, int end, float fill) {
  QUIRE_LANES(i >= begin && i < end ? x.lane[i] : fill);
}

// To the nearest integer, halves to even; for |x| < 2^22.
inline Vec round_to_integer(const Vec& x) { QUIRE_LANES((x.lane[i] + 12582912.0f) - 12582912.0f); }

// 2^n for an integral n in [-126, 127].
inline Vec power_of_two(const Vec& n) {
  QUIRE_LANES(float_of(static_cast<std::uint32_t>(static_cast<int>(n.lane[i]) + 127) << 23));
}

inline float widen(Bf16 x) { return float_of(static_cast<std::uint32_t>(x.bits) << 16); }

// To the nearest bf16, halves to even; NaN stays NaN.
inline Bf16 narrow(float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return {static_cast<std::uint16_t>((x == x ? rounded : bits | 0x400000) >> 16)};
}

inline Vec load(const float* p) { QUIRE_LANES(p[i]); }
inline Vec load(const Bf16* p) { QUIRE_LANES(widen(p[i])); }

// The first n values and zeros after them.
inline Vec load_first(const float* p, int n) { QUIRE_LANES(i < n ? p[i] : 0.0f); }
inline Vec load_first(const Bf16* p, int n) { QUIRE_LANES(i < n ? widen(p[i]) : 0.0f); }

inline void store(float* p, const Vec& x) {
  for (int i = 0; i < 16; ++i) p[i] = x.lane[i];
}
inline void store(Bf16* p, const Vec& x) {
  for (int i = 0; i < 16; ++i) p[i] = narrow(x.lane[i]);
}
inline void store_first(float* p, const Vec& x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.lane[i];
}
inline void store_first(Bf16* p, const Vec& x, int n) {
  for (int i = 0; i < n; ++i) p[i] = narrow(x.lane[i]);
}

// Sixteen pairs of bf16: the first of each pair, and the second.
inline void load_pairs(const Bf16* p, Vec& even, Vec& odd) {
  for (int i = 0; i < 16; ++i) {
    even.lane[i] = widen(p[2 * i]);
    odd.lane[i] = widen(p[2 * i + 1]);
  }
}

// Adds neighbours at distance 8, 4, 2 and 1, in this order; so do all instruction sets.
inline float sum(const Vec& x) {
  float a[8];
  for (int i = 0; i < 8; ++i) a[i] = x.lane[i] + x.lane[i + 8];
  for (int i = 0; i < 4; ++i) a[i] += a[i + 4];
  for (int i = 0; i < 2; ++i) a[i] += a[i + 2];
  return a[0] + a[1];
}

inline float largest(const Vec& x) {
  float r = x.lane[0];
  for (int i = 1; i < 16; ++i) r = x.lane[i] > r ? x.lane[i] : r;
  return r;
}

// rows[i] is a pointer to 16 words; word j of row i goes to out[j * stride + i].
inline void transpose_words(const std::uint32_t* const rows[16], std::uint32_t* out, int stride) {
  for (int j = 0; j < 16; ++j) {
    for (int i = 0; i < 16; ++i) out[j * stride + i] = rows[i][j];
  }
}

#undef QUIRE_LANES

// Shapes of the register tiles: see dot_tile.h and attention_kernels.h.
constexpr int kFloatRows = 2, kPairRows = 2;
constexpr int kWideRows = 1;          // up to so many rows, a tile is wider
constexpr int kStreamRows = 0;        // up to so many rows, the weight is prefetched
constexpr int kTileVectors = 1;  // vectors of columns in a tile
constexpr int kWideVectors = 2;  // the same with few rows
constexpr int kValueRows = 2, kValueVectors = 1;

}  // namespace quire::QUIRE_TARGET
