// Reading and writing rows that are no multiple of a vector, and rounding them to int8.

namespace quire::QUIRE_TARGET {

// Vectors of `size` elements, the last one partial.
template <class T>
inline Vec load_part(const T* p, std::int64_t at, std::int64_t size) {
  return size - at >= kLanes ? load(p + at) : load_first(p + at, static_cast<int>(size - at));
}

template <class T>
inline void store_part(T* p, Vec x, std::int64_t at, std::int64_t size) {
  size - at >= kLanes ? store(p + at, x) : store_first(p + at, x, static_cast<int>(size - at));
}

// Rounds a row to int8, q = round(x * 127 / max |x|); returns the scale, which is NaN (and q zero) if a
// value is not finite. q is zero, too, if 127 / max |x| is not finite. `values` has room for whole vectors.
inline float quantize_row(float* values, int size, std::int8_t* q) {
  Vec most = zero(), poison = zero();
  for (int k = 0; k < size; k += kLanes) {
    const Vec x = load_part(values, k, size);
    most = max(most, abs(x));
    poison = add(poison, mul(x, zero()));  // 0 unless x is infinite or NaN
  }
  const float largest_value = largest(most);
  const bool finite = sum(poison) == 0.0f;
  const float quotient = 127.0f / largest_value;
  const float inverse = quotient - quotient == 0.0f ? quotient : 0.0f;
  const Vec factor = set1(inverse), low = set1(-127.0f), high = set1(127.0f);
  for (int k = 0; k < size; k += kLanes) {
    const Vec x = finite ? load_part(values, k, size) : zero();
    // The largest value of all may come out a rounding above 127.
    store_bytes(q + k, max(low, min(high, round_to_integer(mul(x, factor)))));
  }
  return finite ? largest_value / 127.0f : __builtin_nanf("");
}

// Copies a row, converting it.
template <class T, class U>
inline void copy_row(const T* x, U* y, std::int64_t size) {
  for (std::int64_t i = 0; i < size; i += kLanes) store_part(y, load_part(x, i, size), i, size);
}

}  // namespace quire::QUIRE_TARGET
