// Sixteen floats in portable vectors of four, which compilers turn into SSE2, NEON or whatever there is.
// This file also says what each vector function means; simd_avx2.h and simd_avx512.h are the same in
// intrinsics.

namespace quire::QUIRE_TARGET {

using Quad = float __attribute__((vector_size(16)));
using QuadBits = std::uint32_t __attribute__((vector_size(16)));

struct Vec {
  Quad q[4];
};

// A Vec whose quads are `expression` of i.
#define QUIRE_QUADS(expression)                       \
  Vec r;                                              \
  QUIRE_UNROLL(4)                                     \
  for (int i = 0; i < 4; ++i) r.q[i] = (expression); \
  return r

inline Vec set1(float x) { QUIRE_QUADS((Quad{x, x, x, x})); }
inline Vec zero() { return set1(0.0f); }
inline Vec add(const Vec& a, const Vec& b) { QUIRE_QUADS(a.q[i] + b.q[i]); }
inline Vec sub(const Vec& a, const Vec& b) { QUIRE_QUADS(a.q[i] - b.q[i]); }
inline Vec mul(const Vec& a, const Vec& b) { QUIRE_QUADS(a.q[i] * b.q[i]); }
inline Vec div(const Vec& a, const Vec& b) { QUIRE_QUADS(a.q[i] / b.q[i]); }

// a * b + c; fused where the instruction set can.
inline Vec fma(const Vec& a, const Vec& b, const Vec& c) { QUIRE_QUADS(a.q[i] * b.q[i] + c.q[i]); }

// If either is NaN, the second: max(limit, x) keeps a NaN in x.
inline Vec max(const Vec& a, const Vec& b) { QUIRE_QUADS(a.q[i] > b.q[i] ? a.q[i] : b.q[i]); }
inline Vec min(const Vec& a, const Vec& b) { QUIRE_QUADS(a.q[i] < b.q[i] ? a.q[i] : b.q[i]); }
inline Vec abs(const Vec& a) { QUIRE_QUADS((Quad)((QuadBits)a.q[i] & 0x7fffffffu)); }

// a < b ? yes : no, lane by lane; NaN compares false.
inline Vec where_less(const Vec& a, const Vec& b, const Vec& yes, const Vec& no) {
  QUIRE_QUADS(a.q[i] < b.q[i] ? yes.q[i] : no.q[i]);
}

// To the nearest integer, halves to even; for |x| < 2^22.
inline Vec round_to_integer(const Vec& x) { QUIRE_QUADS((x.q[i] + 12582912.0f) - 12582912.0f); }

// 2^n for an integral n in [-126, 127]: n + 127 as an integer, from the low bits of a large float.
inline Vec power_of_two(const Vec& n) { QUIRE_QUADS((Quad)((QuadBits)(n.q[i] + 8388735.0f) << 23)); }

// x * 2^n for an integral n in [-126, 128], in two factors where one would overflow.
inline Vec times_power_of_two(const Vec& x, const Vec& n) {
  const Vec half = round_to_integer(mul(n, set1(0.5f)));
  return mul(mul(x, power_of_two(half)), power_of_two(sub(n, half)));
}

inline Vec load(const float* p) {
  Vec r;
  __builtin_memcpy(&r, p, sizeof(r));
  return r;
}
inline void store(float* p, const Vec& x) { __builtin_memcpy(p, &x, sizeof(x)); }

// The first n values and zeros after them.
inline Vec load_first(const float* p, int n) {
  float padded[16] = {};
  __builtin_memcpy(padded, p, sizeof(float) * static_cast<unsigned>(n));
  return load(padded);
}
inline void store_first(float* p, const Vec& x, int n) {
  __builtin_memcpy(p, &x, sizeof(float) * static_cast<unsigned>(n));
}

// Lanes begin..end - 1 of x; the others become `fill`.
inline Vec keep_lanes(const Vec& x, int begin, int end, float fill) {
  float lanes[16];
  store(lanes, x);
  for (int i = 0; i < 16; ++i) {
    if (i < begin || i >= end) lanes[i] = fill;
  }
  return load(lanes);
}

inline Vec load(const Bf16* p) {
  std::uint32_t bits[16];
  for (int i = 0; i < 16; ++i) bits[i] = static_cast<std::uint32_t>(p[i].bits) << 16;
  Vec r;
  __builtin_memcpy(&r, bits, sizeof(r));
  return r;
}
inline Vec load_first(const Bf16* p, int n) {
  Bf16 padded[16] = {};
  __builtin_memcpy(padded, p, sizeof(Bf16) * static_cast<unsigned>(n));
  return load(padded);
}

// To the nearest bf16, halves to even; NaN stays NaN.
inline Bf16 narrow(std::uint32_t bits) {
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const std::uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
  return {static_cast<std::uint16_t>((nan ? bits | 0x400000u : rounded) >> 16)};
}
inline void store(Bf16* p, const Vec& x) {
  std::uint32_t bits[16];
  __builtin_memcpy(bits, &x, sizeof(x));
  for (int i = 0; i < 16; ++i) p[i] = narrow(bits[i]);
}
inline Vec round_to_bf16(const Vec& x) {
  Bf16 stored[16];
  store(stored, x);
  return load(stored);
}
inline void store_first(Bf16* p, const Vec& x, int n) {
  Bf16 all[16];
  store(all, x);
  __builtin_memcpy(p, all, sizeof(Bf16) * static_cast<unsigned>(n));
}

// Sixteen pairs of bf16, each a word: the first of each pair (its low half), and the second.
inline void load_pairs(const Bf16* p, Vec& even, Vec& odd) {
  QuadBits words[4];
  __builtin_memcpy(words, p, sizeof(words));
  QUIRE_UNROLL(4)
  for (int i = 0; i < 4; ++i) {
    even.q[i] = (Quad)(words[i] << 16);
    odd.q[i] = (Quad)(words[i] & 0xffff0000u);
  }
}

// Sixteen 32-bit integers, or as many groups of four bytes.
struct Ints {
  std::int32_t lane[16];
};

// An Ints whose lanes are `expression` of i.
#define QUIRE_LANES(expression)                           \
  Ints r;                                                 \
  for (int i = 0; i < 16; ++i) r.lane[i] = (expression); \
  return r

inline Ints load_ints(const void* p) {
  Ints r;
  __builtin_memcpy(&r, p, sizeof(r));
  return r;
}
inline void store_ints(void* p, const Ints& x) { __builtin_memcpy(p, &x, sizeof(x)); }
inline Ints set1_int(std::int32_t x) { QUIRE_LANES(x); }
inline Ints add(const Ints& a, const Ints& b) { QUIRE_LANES(a.lane[i] + b.lane[i]); }
inline Ints sub(const Ints& a, const Ints& b) { QUIRE_LANES(a.lane[i] - b.lane[i]); }
inline Ints mul(const Ints& a, const Ints& b) { QUIRE_LANES(a.lane[i] * b.lane[i]); }
inline Ints widen_shorts(const std::int16_t* p) { QUIRE_LANES(p[i]); }

// The field of `Bits` bits that starts at bit `shift` of each lane.
template <int Bits>
inline Ints field(const Ints& x, int shift) {
  QUIRE_LANES(static_cast<std::int32_t>(static_cast<std::uint32_t>(x.lane[i]) >> shift & ((1u << Bits) - 1)));
}
inline Ints low_nibbles(const Ints& x) { QUIRE_LANES(x.lane[i] & 0x0f0f0f0f); }
inline Ints high_nibbles(const Ints& x) {
  QUIRE_LANES(static_cast<std::int32_t>(static_cast<std::uint32_t>(x.lane[i]) >> 4 & 0x0f0f0f0fu));
}
inline Vec to_float(const Ints& x) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(x.lane[i]);
  return load(lanes);
}

// sums + w . x over the four bytes of each lane: w is 0..15, x is signed.
inline Ints dot_nibbles(const Ints& sums, const Ints& w, const Ints& x) {
  Ints r = sums;
  for (int shift = 0; shift < 32; shift += 8) {
    for (int i = 0; i < 16; ++i) {
      r.lane[i] += (w.lane[i] >> shift & 15) * static_cast<std::int8_t>(x.lane[i] >> shift);
    }
  }
  return r;
}

// Stored bytes are weights plus 128. dot_bytes takes what prepare_bytes makes of them, which is the
// weights plus kByteOffset: the int8 dot products of some instruction sets take unsigned bytes.
constexpr int kByteOffset = 0;
inline Ints prepare_bytes(const Ints& w) {
  QUIRE_LANES(static_cast<std::int32_t>(static_cast<std::uint32_t>(w.lane[i]) ^ 0x80808080u));
}
inline Ints dot_bytes(const Ints& sums, const Ints& w, const Ints& x) {
  Ints r = sums;
  for (int shift = 0; shift < 32; shift += 8) {
    for (int i = 0; i < 16; ++i) {
      r.lane[i] += static_cast<std::int8_t>(w.lane[i] >> shift) * static_cast<std::int8_t>(x.lane[i] >> shift);
    }
  }
  return r;
}

#undef QUIRE_LANES

// The lanes of x, integral and within int8, as bytes.
inline void store_bytes(std::int8_t* p, const Vec& x) {
  float lanes[16];
  store(lanes, x);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<std::int8_t>(lanes[i]);
}

inline Vec load_bytes(const std::int8_t* p) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(p[i]);
  return load(lanes);
}

// An IEEE fp16.
struct Half {
  std::uint16_t bits;
};
inline Vec load(const Half* p) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = half_to_float(p[i].bits);
  return load(lanes);
}

// Adds neighbours at distance 8, 4, 2 and 1, in this order; so do all instruction sets.
inline float sum(const Vec& x) {
  const Quad four = (x.q[0] + x.q[2]) + (x.q[1] + x.q[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float largest(const Vec& x) {
  float lanes[16];
  store(lanes, x);
  float r = lanes[0];
  for (int i = 1; i < 16; ++i) r = lanes[i] > r ? lanes[i] : r;
  return r;
}

// rows[i] is a pointer to 16 words; word j of row i goes to out[j * stride + i].
inline void transpose_words(const std::uint32_t* const rows[16], std::uint32_t* out, int stride) {
  for (int j = 0; j < 16; ++j) {
    for (int i = 0; i < 16; ++i) __builtin_memcpy(out + j * stride + i, rows[i] + j, 4);
  }
}

#undef QUIRE_QUADS

// Shapes of the register tiles: see dot_tile.h and attention_kernels.h.
constexpr int kFloatRows = 2, kPairRows = 2;
constexpr int kTileVectors = 1;  // vectors of columns in a tile
constexpr int kWideRows = 1;     // up to so many rows, a tile of kWideVectors fits the registers too
constexpr int kWideVectors = 2;
constexpr int kValueRows = 3, kValueVectors = 1;
constexpr int kQuantizedRows = 1, kQuantizedVectors = 1;  // see quantized_kernels.h

}  // namespace quire::QUIRE_TARGET
