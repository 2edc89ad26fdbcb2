// Sixteen floats in two AVX2 registers. See simd_plain.h for what each function means.

namespace quire::QUIRE_TARGET {

struct Vec {
  __m256 low, high;
};

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }

inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

inline Vec abs(Vec a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.low, yes.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.high, yes.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}

// All ones in lanes begin..end - 1 of the eight lanes that start at `offset`.
inline __m256i lane_mask(int begin, int end, int offset) {
  const __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(offset));
  return _mm256_and_si256(_mm256_cmpgt_epi32(lane, _mm256_set1_epi32(begin - 1)),
                          _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane));
}

inline Vec keep_lanes(Vec x, int begin, int end, float fill) {
  const __m256 other = _mm256_set1_ps(fill);
  return {_mm256_blendv_ps(other, x.low, _mm256_castsi256_ps(lane_mask(begin, end, 0))),
          _mm256_blendv_ps(other, x.high, _mm256_castsi256_ps(lane_mask(begin, end, 8)))};
}

inline Vec round_to_integer(Vec x) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, mode), _mm256_round_ps(x.high, mode)};
}

inline __m256 power_of_two(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline __m256 times_power_of_two(__m256 x, __m256 n) {
  const __m256 half = _mm256_round_ps(_mm256_mul_ps(n, _mm256_set1_ps(0.5f)), _MM_FROUND_TO_NEAREST_INT);
  return _mm256_mul_ps(_mm256_mul_ps(x, power_of_two(half)), power_of_two(_mm256_sub_ps(n, half)));
}
inline Vec times_power_of_two(Vec x, Vec n) {
  return {times_power_of_two(x.low, n.low), times_power_of_two(x.high, n.high)};
}

inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline Vec load_first(const float* p, int n) {
  return {_mm256_maskload_ps(p, lane_mask(0, n, 0)), _mm256_maskload_ps(p + 8, lane_mask(0, n, 8))};
}
inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline void store_first(float* p, Vec x, int n) {
  _mm256_maskstore_ps(p, lane_mask(0, n, 0), x.low);
  _mm256_maskstore_ps(p + 8, lane_mask(0, n, 8), x.high);
}

inline __m256 widen(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

// Eight bf16 bit patterns, each in a 32-bit lane.
inline __m256i narrow(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}

inline __m256i narrow(Vec x) {
  const __m256i packed = _mm256_packus_epi32(narrow(x.low), narrow(x.high));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}

inline __m256 round_to_bf16(__m256 x) { return _mm256_castsi256_ps(_mm256_slli_epi32(narrow(x), 16)); }
inline Vec round_to_bf16(Vec x) { return {round_to_bf16(x.low), round_to_bf16(x.high)}; }

inline Vec load(const Bf16* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {widen(_mm_loadu_si128(q)), widen(_mm_loadu_si128(q + 1))};
}
inline Vec load_first(const Bf16* p, int n) {
  Bf16 padded[16] = {};
  __builtin_memcpy(padded, p, sizeof(Bf16) * static_cast<unsigned>(n));
  return load(padded);
}
inline void store(Bf16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
inline void store_first(Bf16* p, Vec x, int n) {
  Bf16 padded[16];
  store(padded, x);
  __builtin_memcpy(p, padded, sizeof(Bf16) * static_cast<unsigned>(n));
}

inline void load_pairs(const Bf16* p, Vec& even, Vec& odd) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  even.low = _mm256_castsi256_ps(_mm256_slli_epi32(low, 16));
  even.high = _mm256_castsi256_ps(_mm256_slli_epi32(high, 16));
  odd.low = _mm256_castsi256_ps(_mm256_and_si256(low, upper));
  odd.high = _mm256_castsi256_ps(_mm256_and_si256(high, upper));
}

struct Ints {
  __m256i low, high;
};

inline Ints load_ints(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline void store_ints(void* p, Ints x) {
  __m256i* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, x.low);
  _mm256_storeu_si256(q + 1, x.high);
}
inline Ints set1_int(std::int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline Ints sub(Ints a, Ints b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
inline Ints mul(Ints a, Ints b) {
  return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
}
inline Ints widen_shorts(const std::int16_t* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtepi16_epi32(_mm_loadu_si128(q)), _mm256_cvtepi16_epi32(_mm_loadu_si128(q + 1))};
}
template <int Bits>
inline Ints field(Ints x, int shift) {
  const __m256i mask = _mm256_set1_epi32((1 << Bits) - 1);
  return {_mm256_and_si256(_mm256_srli_epi32(x.low, shift), mask),
          _mm256_and_si256(_mm256_srli_epi32(x.high, shift), mask)};
}
inline Ints low_nibbles(Ints x) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(x.low, mask), _mm256_and_si256(x.high, mask)};
}
inline Ints high_nibbles(Ints x) {
  return low_nibbles(Ints{_mm256_srli_epi32(x.low, 4), _mm256_srli_epi32(x.high, 4)});
}
inline Vec to_float(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }

#if defined(QUIRE_VNNI)
inline __m256i dot_words(__m256i sums, __m256i w, __m256i x) { return QUIRE_VNNI(sums, w, x); }
#else
inline __m256i dot_words(__m256i sums, __m256i w, __m256i x) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
#endif
inline Ints dot_nibbles(Ints sums, Ints w, Ints x) {
  return {dot_words(sums.low, w.low, x.low), dot_words(sums.high, w.high, x.high)};
}

#if defined(QUIRE_VNNI)
constexpr int kByteOffset = 128;
inline Ints prepare_bytes(Ints w) { return w; }
inline Ints dot_bytes(Ints sums, Ints w, Ints x) { return dot_nibbles(sums, w, x); }
#else
constexpr int kByteOffset = 0;
inline Ints prepare_bytes(Ints w) {
  const __m256i top = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(w.low, top), _mm256_xor_si256(w.high, top)};
}
// |w| times x with the sign of w: 128 * 127 * 2 fits 16 bits, where 255 * 127 * 2 would saturate.
inline Ints dot_bytes(Ints sums, Ints w, Ints x) {
  return {dot_words(sums.low, _mm256_abs_epi8(w.low), _mm256_sign_epi8(x.low, w.low)),
          dot_words(sums.high, _mm256_abs_epi8(w.high), _mm256_sign_epi8(x.high, w.high))};
}
#endif

inline void store_bytes(std::int8_t* p, Vec x) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

inline Vec load_bytes(const std::int8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

struct Half {
  std::uint16_t bits;
};
inline Vec load(const Half* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}

inline __m128 low_half(__m256 x) { return _mm256_castps256_ps128(x); }
inline __m128 high_half(__m256 x) { return _mm256_extractf128_ps(x, 1); }

// Adds neighbours at distance 8, 4, 2 and 1, in this order; so do all instruction sets.
inline float sum(Vec x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  const __m128 four = _mm_add_ps(low_half(eight), high_half(eight));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float largest(Vec x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(low_half(eight), high_half(eight));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// An 8 x 8 block of transpose_words.
inline void transpose_block(const std::uint32_t* const* rows, int column, std::uint32_t* out, int stride) {
  __m256 a[8], b[8];
  QUIRE_UNROLL(8)
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows[i] + column));
  QUIRE_UNROLL(4)
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  }
  QUIRE_UNROLL(2)
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
  QUIRE_UNROLL(4)
  for (int c = 0; c < 4; ++c) {
    float* low = reinterpret_cast<float*>(out + c * stride);
    float* high = reinterpret_cast<float*>(out + (4 + c) * stride);
    _mm256_storeu_ps(low, _mm256_permute2f128_ps(a[c], a[4 + c], 0x20));
    _mm256_storeu_ps(high, _mm256_permute2f128_ps(a[c], a[4 + c], 0x31));
  }
}

// rows[i] is a pointer to 16 words; word j of row i goes to out[j * stride + i].
inline void transpose_words(const std::uint32_t* const rows[16], std::uint32_t* out, int stride) {
  for (int r = 0; r < 16; r += 8) {
    for (int c = 0; c < 16; c += 8) transpose_block(rows + r, c, out + c * stride + r, stride);
  }
}

// Shapes of the register tiles: see dot_tile.h and attention_kernels.h.
constexpr int kFloatRows = 6, kPairRows = 5;
constexpr int kTileVectors = 1;  // vectors of columns in a tile
constexpr int kWideRows = 2;     // up to so many rows, a tile of kWideVectors fits the registers too
constexpr int kWideVectors = 2;
constexpr int kValueRows = 6, kValueVectors = 1;
constexpr int kQuantizedRows = 2, kQuantizedVectors = 1;  // see quantized_kernels.h

}  // namespace quire::QUIRE_TARGET
