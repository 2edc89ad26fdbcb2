// exp, tanh and their kin on vectors: the same polynomial in every lane and for every instruction set.

namespace quire::QUIRE_TARGET {

// e^x within 2 ulp; 0 below -87.33 (where fp32 would need denormals), infinity above 88.72, NaN for NaN.
// Coefficients of Cephes' expf (Moshier, 1992).
inline Vec exp(Vec x) {
  const Vec smallest = set1(-87.33f), largest = set1(88.72f);
  const Vec clamped = max(smallest, min(largest, x));
  const Vec n = round_to_integer(mul(clamped, set1(1.44269504088896341f)));
  Vec r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, set1(1.0f)));
  const Vec value = times_power_of_two(p, n);
  const Vec infinity = set1(__builtin_inff());
  return where_less(x, smallest, zero(), where_less(largest, x, infinity, value));
}

// tanh(x) within 3 ulp; Cephes' polynomial near zero, where 1 - 2 / (e^2x + 1) cancels.
inline Vec tanh(Vec x) {
  const Vec z = mul(x, x);
  Vec p = set1(-5.70498872745e-3f);
  p = fma(p, z, set1(2.06390887954e-2f));
  p = fma(p, z, set1(-5.37397155531e-2f));
  p = fma(p, z, set1(1.33314422036e-1f));
  p = fma(p, z, set1(-3.33332819422e-1f));
  const Vec near = fma(mul(p, z), x, x);
  const Vec two = set1(2.0f), one = set1(1.0f);
  const Vec far = sub(one, div(two, add(exp(mul(two, x)), one)));
  return where_less(abs(x), set1(0.625f), near, far);
}

inline Vec silu(Vec x) { return div(x, add(set1(1.0f), exp(sub(zero(), x)))); }

// 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
inline Vec gelu_tanh(Vec x) {
  const Vec cube = mul(mul(x, x), x);
  const Vec inner = mul(set1(0.7978845608028654f), add(x, mul(set1(0.044715f), cube)));
  return mul(mul(set1(0.5f), x), add(set1(1.0f), tanh(inner)));
}

// x * Phi(x) with an error of at most 1e-7 |x|, where Phi is the distribution function of the normal
// distribution: 1 - Phi(|x|) = erfc(z) / 2 = P(t) exp(-z^2) / 2, z = |x| / sqrt(2), t = 1 / (1 + p z)
// (Abramowitz & Stegun, 7.1.26).
inline Vec gelu_exact(Vec x) {
  const Vec one = set1(1.0f);
  const Vec z = mul(abs(x), set1(0.70710678118654752f));
  const Vec t = div(one, fma(set1(0.3275911f), z, one));
  Vec p = set1(1.061405429f);
  p = fma(p, t, set1(-1.453152027f));
  p = fma(p, t, set1(1.421413741f));
  p = fma(p, t, set1(-0.284496736f));
  p = fma(p, t, set1(0.254829592f));
  const Vec tail = mul(mul(mul(set1(0.5f), t), p), exp(sub(zero(), mul(z, z))));
  return mul(x, where_less(x, zero(), tail, sub(one, tail)));
}

// The value that storing as T keeps.
template <class T>
inline Vec rounded(Vec x) {
  if constexpr (sizeof(T) == 2) {
    return round_to_bf16(x);
  } else {
    return x;
  }
}

}  // namespace quire::QUIRE_TARGET
