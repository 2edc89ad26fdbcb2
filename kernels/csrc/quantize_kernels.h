// Rounding a dense weight to int8 or int4: reference.quantize_weight says how.

namespace quire::QUIRE_TARGET {

inline float round_scale(float scale, ScaleType type, char* out) {
  if (type == ScaleType::float32) {
    __builtin_memcpy(out, &scale, 4);
    return scale;
  }
  if (type == ScaleType::float16) {
    const std::uint16_t half = float_to_half(scale);
    __builtin_memcpy(out, &half, 2);
    return half_to_float(half);
  }
  const Bf16 narrow = to_bf16(scale);
  __builtin_memcpy(out, &narrow, 2);
  return to_scalar(narrow);
}

// The value of largest magnitude, the negative one of two equals. NaN if a value is not finite.
template <class T>
inline float extreme(const T* x, std::int64_t begin, std::int64_t end) {
  Vec low = zero(), high = zero(), poison = zero();
  for (std::int64_t k = begin; k < end; k += kLanes) {
    const Vec value = load_part(x, k, end);
    low = min(low, value);
    high = max(high, value);
    poison = add(poison, mul(value, zero()));  // 0 unless the value is infinite or NaN
  }
  if (!(sum(poison) == 0.0f)) return __builtin_nanf("");
  const float most = largest(high), least = -largest(sub(zero(), low));
  return -least >= most ? least : most;
}

// q = round(x / scale), and for int4 8 more, as bytes; `out` has room for whole vectors. If 1 / scale is not
// finite, q is 0 whatever x is.
template <class T>
inline void round_group(const T* x, std::int64_t begin, std::int64_t end, float scale, bool four,
                        std::int8_t* out) {
  const float quotient = 1.0f / scale;
  const bool usable = quotient - quotient == 0.0f;
  const Vec inverse = set1(quotient);
  const Vec low = set1(four ? -8.0f : -127.0f), high = set1(four ? 7.0f : 127.0f), offset = set1(four ? 8.0f : 0.0f);
  for (std::int64_t k = begin; k < end; k += kLanes) {
    const Vec q = usable ? round_to_integer(mul(load_part(x, k, end), inverse)) : zero();
    store_bytes(out + (k - begin), add(max(low, min(high, q)), offset));
  }
}

template <class T>
void quantize_weight_rows(const QuantizeArgs& a, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kPiece = 1024;  // a multiple of 16, and so of two nibbles
  std::int8_t q[kPiece + kLanes];
  const bool four = a.bits == 4;
  const std::int64_t groups = ceil_div(a.in_features, a.group_size);
  const std::int64_t row_bytes = four ? (a.in_features + 1) / 2 : a.in_features;
  const std::int64_t scale_bytes = static_cast<std::int64_t>(size_of(a.scale_type));
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = reinterpret_cast<const T*>(a.dense) + row * a.stride;
    std::uint8_t* data = reinterpret_cast<std::uint8_t*>(a.data) + row * row_bytes;
    for (std::int64_t group = 0; group < groups; ++group) {
      const std::int64_t first = group * a.group_size;
      const std::int64_t last = first + a.group_size < a.in_features ? first + a.group_size : a.in_features;
      const float most = extreme(x, first, last);
      const float exact = four ? most / -8.0f : (most < 0 ? -most : most) / 127.0f;
      // The sum makes the scale of zeros +0.
      const float scale = round_scale(exact + 0.0f, a.scale_type, a.scales + (row * groups + group) * scale_bytes);
      for (std::int64_t k = first; k < last; k += kPiece) {
        const std::int64_t stop = k + kPiece < last ? k + kPiece : last;
        round_group(x, k, stop, scale, four, q);
        if (!four) {
          __builtin_memcpy(data + k, q, static_cast<std::size_t>(stop - k));
          continue;
        }
        q[stop - k] = 8;  // the nibble past an odd end
        for (std::int64_t i = 0; i < stop - k; i += 2) {
          data[(k + i) / 2] = static_cast<std::uint8_t>(q[i] | q[i + 1] << 4);
        }
      }
    }
  }
}

inline void quantize_weight(const QuantizeArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? quantize_weight_rows<float>(a, begin, end)
                           : quantize_weight_rows<Bf16>(a, begin, end);
}

}  // namespace quire::QUIRE_TARGET
