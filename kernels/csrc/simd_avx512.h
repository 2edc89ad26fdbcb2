// Sixteen floats in one AVX512 register. See simd_plain.h for what each function means.

namespace quire::QUIRE_TARGET {

using Vec = __m512;

inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec abs(Vec a) { return _mm512_abs_ps(a); }

inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}

inline Vec keep_lanes(Vec x, int begin, int end, float fill) {
  const __mmask16 mask = static_cast<__mmask16>(first_lanes(end) & ~first_lanes(begin));
  return _mm512_mask_blend_ps(mask, set1(fill), x);
}

inline Vec round_to_integer(Vec x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

inline Vec times_power_of_two(Vec x, Vec n) { return _mm512_scalef_ps(x, n); }

inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline void store_first(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, first_lanes(n), x); }

inline Vec widen(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// bf16 bit patterns in the upper halves; the lower halves are undefined.
inline __m512i round_bits(Vec x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_mask_blend_epi32(nan, rounded, quiet);
}

#if defined(QUIRE_PAIR_DOT)
// One instruction, which takes what is below 2^-126 for zero.
inline __m256i narrow(Vec x) { return (__m256i)_mm512_cvtneps_pbh(x); }
inline Vec round_to_bf16(Vec x) { return widen(narrow(x)); }
#else
inline __m256i narrow(Vec x) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bits(x), 16)); }

inline Vec round_to_bf16(Vec x) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  return _mm512_castsi512_ps(_mm512_and_si512(round_bits(x), upper));
}
#endif

inline Vec load(const Bf16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load_first(const Bf16* p, int n) { return widen(_mm256_maskz_loadu_epi16(first_lanes(n), p)); }
inline void store(Bf16* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
inline void store_first(Bf16* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, first_lanes(n), narrow(x)); }

inline void load_pairs(const Bf16* p, Vec& even, Vec& odd) {
  const __m512i pairs = _mm512_loadu_si512(p);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

using Ints = __m512i;

inline Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
inline void store_ints(void* p, Ints x) { _mm512_storeu_si512(p, x); }
inline Ints set1_int(std::int32_t x) { return _mm512_set1_epi32(x); }
inline Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints sub(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
inline Ints mul(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
inline Ints widen_shorts(const std::int16_t* p) {
  return _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
template <int Bits>
inline Ints field(Ints x, int shift) {
  return _mm512_and_si512(_mm512_srli_epi32(x, static_cast<unsigned>(shift)),
                          _mm512_set1_epi32((1 << Bits) - 1));
}
inline Ints low_nibbles(Ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Ints high_nibbles(Ints x) {
  return _mm512_and_si512(_mm512_srli_epi32(x, 4), _mm512_set1_epi8(15));
}
inline Vec to_float(Ints x) { return _mm512_cvtepi32_ps(x); }

#if defined(QUIRE_VNNI)
inline Ints dot_nibbles(Ints sums, Ints w, Ints x) { return _mm512_dpbusd_epi32(sums, w, x); }
constexpr int kByteOffset = 128;
inline Ints prepare_bytes(Ints w) { return w; }
inline Ints dot_bytes(Ints sums, Ints w, Ints x) { return _mm512_dpbusd_epi32(sums, w, x); }
#else
inline Ints dot_nibbles(Ints sums, Ints w, Ints x) {
  return _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_maddubs_epi16(w, x), _mm512_set1_epi16(1)));
}
constexpr int kByteOffset = 0;
inline Ints prepare_bytes(Ints w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
inline Ints dot_bytes(Ints sums, Ints w, Ints x) {
  // |w| times x with the sign of w: 128 * 127 * 2 fits 16 bits, where 255 * 127 * 2 would saturate.
  const __mmask64 negative = _mm512_movepi8_mask(w);
  const Ints signed_x = _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x);
  return dot_nibbles(sums, _mm512_abs_epi8(w), signed_x);
}
#endif

inline void store_bytes(std::int8_t* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}

inline Vec load_bytes(const std::int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

struct Half {
  std::uint16_t bits;
};
inline Vec load(const Half* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Adds neighbours at distance 8, 4, 2 and 1, in this order; so do all instruction sets.
inline float sum(Vec x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float largest(Vec x) { return _mm512_reduce_max_ps(x); }

// rows[i] is a pointer to 16 words; word j of row i goes to out[j * stride + i].
inline void transpose_words(const std::uint32_t* const rows[16], std::uint32_t* out, int stride) {
  __m512i a[16], b[16];
  QUIRE_UNROLL(16)
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows[i]);
  QUIRE_UNROLL(8)
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  QUIRE_UNROLL(4)
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4g + c] holds column 4q + c of rows 4g..4g+3 in its quarter q; gather the quarters.
  QUIRE_UNROLL(4)
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(a[c], a[4 + c], 0x44);
    const __m512i high = _mm512_shuffle_i32x4(a[c], a[4 + c], 0xee);
    const __m512i low2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0x44);
    const __m512i high2 = _mm512_shuffle_i32x4(a[8 + c], a[12 + c], 0xee);
    _mm512_storeu_si512(out + c * stride, _mm512_shuffle_i32x4(low, low2, 0x88));
    _mm512_storeu_si512(out + (4 + c) * stride, _mm512_shuffle_i32x4(low, low2, 0xdd));
    _mm512_storeu_si512(out + (8 + c) * stride, _mm512_shuffle_i32x4(high, high2, 0x88));
    _mm512_storeu_si512(out + (12 + c) * stride, _mm512_shuffle_i32x4(high, high2, 0xdd));
  }
}

#if defined(QUIRE_PAIR_DOT)
// Channels of two rows as pairs: pairs[n] holds channels 16 n .. 16 n + 15 of a, each with b's beside it.
template <int N>
inline void interleave(const Bf16* a, const Bf16* b, __m512i (&pairs)[N]) {
  if constexpr (N % 2 == 0) {
    alignas(64) static const std::uint16_t kOrder[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                         8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i first = _mm512_load_si512(kOrder);
    const __m512i second = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    QUIRE_UNROLL(2)
    for (int n = 0; n < N; n += 2) {
      const __m512i x = _mm512_loadu_si512(a + n * kLanes), y = _mm512_loadu_si512(b + n * kLanes);
      pairs[n] = _mm512_permutex2var_epi16(x, first, y);
      pairs[n + 1] = _mm512_permutex2var_epi16(x, second, y);
    }
  } else {
    for (int n = 0; n < N; ++n) {
      const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + n * kLanes));
      const __m256i y = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + n * kLanes));
      pairs[n] = _mm512_or_si512(_mm512_cvtepu16_epi32(x), _mm512_slli_epi32(_mm512_cvtepu16_epi32(y), 16));
    }
  }
}
#endif

// Shapes of the register tiles: see dot_tile.h and attention_kernels.h.
constexpr int kFloatRows = 14, kPairRows = 12;
constexpr int kTileVectors = 2;  // vectors of columns in a tile
constexpr int kWideRows = 0;     // up to so many rows, a tile of kWideVectors fits the registers too
constexpr int kWideVectors = 2;
constexpr int kValueRows = 7, kValueVectors = 4;
constexpr int kQuantizedRows = 6, kQuantizedVectors = 2;  // see quantized_kernels.h

}  // namespace quire::QUIRE_TARGET
