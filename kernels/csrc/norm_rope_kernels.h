// Row-wise kernels: RMSNorm, gated activations, rotary embedding with the write into the KV cache.

namespace quire::QUIRE_TARGET {

// y = round(x / sqrt(mean(x^2) + eps)) * weight
template <class T>
inline void norm_row(const T* x, const T* weight, T* y, std::int64_t size, float eps) {
  Vec squares[4] = {zero(), zero(), zero(), zero()};
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= size; i += 4 * kLanes) {
    QUIRE_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      const Vec value = load(x + i + j * kLanes);
      squares[j] = fma(value, value, squares[j]);
    }
  }
  for (; i < size; i += kLanes) {
    const Vec value = load_part(x, i, size);
    squares[0] = fma(value, value, squares[0]);
  }
  const float total = sum(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
  const Vec scale = set1(1.0f / __builtin_sqrtf(total / static_cast<float>(size) + eps));
  for (i = 0; i < size; i += kLanes) {
    const Vec normed = rounded<T>(mul(load_part(x, i, size), scale));
    store_part(y, mul(normed, load_part(weight, i, size)), i, size);
  }
}

// y = (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias
template <class T>
inline void layer_norm_row(const T* x, const T* weight, const T* bias, T* y, std::int64_t size, float eps) {
  Vec sums = zero();
  for (std::int64_t i = 0; i < size; i += kLanes) sums = add(sums, load_part(x, i, size));
  const Vec mean = set1(sum(sums) / static_cast<float>(size));
  Vec squares = zero();
  for (std::int64_t i = 0; i < size; i += kLanes) {
    Vec centered = sub(load_part(x, i, size), mean);
    if (size - i < kLanes) centered = keep_lanes(centered, 0, static_cast<int>(size - i), 0.0f);
    squares = fma(centered, centered, squares);
  }
  const Vec scale = set1(1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(size) + eps));
  for (std::int64_t i = 0; i < size; i += kLanes) {
    Vec normed = mul(mul(sub(load_part(x, i, size), mean), scale), load_part(weight, i, size));
    if (bias) normed = add(normed, load_part(bias, i, size));
    store_part(y, normed, i, size);
  }
}

// Both norms, alone or of a sum.
template <class T, bool kCentered>
void norm_rows(const NormArgs& a, std::int64_t begin, std::int64_t end) {
  const T* weight = reinterpret_cast<const T*>(a.weight);
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = reinterpret_cast<const T*>(a.x) + row * a.x_stride;
    if (a.residual) {
      const T* residual = reinterpret_cast<const T*>(a.residual) + row * a.residual_stride;
      T* total = reinterpret_cast<T*>(a.total) + row * a.size;
      for (std::int64_t i = 0; i < a.size; i += kLanes) {
        store_part(total, add(load_part(x, i, a.size), load_part(residual, i, a.size)), i, a.size);
      }
      x = total;
    }
    T* y = reinterpret_cast<T*>(a.y) + row * a.size;
    if constexpr (kCentered) {
      layer_norm_row(x, weight, reinterpret_cast<const T*>(a.bias), y, a.size, a.eps);
    } else {
      norm_row(x, weight, y, a.size, a.eps);
    }
  }
}

inline void rms_norm(const NormArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? norm_rows<float, false>(a, begin, end) : norm_rows<Bf16, false>(a, begin, end);
}

inline void layer_norm(const NormArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? norm_rows<float, true>(a, begin, end) : norm_rows<Bf16, true>(a, begin, end);
}

struct Silu {
  static inline Vec of(Vec x) { return silu(x); }
};
struct Gelu {
  static inline Vec of(Vec x) { return gelu_tanh(x); }
};
struct ExactGelu {
  static inline Vec of(Vec x) { return gelu_exact(x); }
};

template <class T, class Activation>
void gate_rows(const GateArgs& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* gate = reinterpret_cast<const T*>(a.x) + row * a.x_stride;
    const T* up = gate + a.size;
    T* y = reinterpret_cast<T*>(a.y) + row * a.size;
    for (std::int64_t i = 0; i < a.size; i += kLanes) {
      const Vec activated = rounded<T>(Activation::of(load_part(gate, i, a.size)));
      store_part(y, mul(activated, load_part(up, i, a.size)), i, a.size);
    }
  }
}

inline void silu_and_mul(const GateArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? gate_rows<float, Silu>(a, begin, end) : gate_rows<Bf16, Silu>(a, begin, end);
}

inline void gelu_and_mul(const GateArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? gate_rows<float, Gelu>(a, begin, end) : gate_rows<Bf16, Gelu>(a, begin, end);
}

inline void exact_gelu_and_mul(const GateArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? gate_rows<float, ExactGelu>(a, begin, end)
                           : gate_rows<Bf16, ExactGelu>(a, begin, end);
}

template <class T, class Activation>
void activate_rows(const GateArgs& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    const T* x = reinterpret_cast<const T*>(a.x) + row * a.x_stride;
    T* y = reinterpret_cast<T*>(a.y) + row * a.size;
    for (std::int64_t i = 0; i < a.size; i += kLanes) {
      store_part(y, Activation::of(load_part(x, i, a.size)), i, a.size);
    }
  }
}

inline void gelu(const GateArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? activate_rows<float, Gelu>(a, begin, end)
                           : activate_rows<Bf16, Gelu>(a, begin, end);
}

inline void exact_gelu(const GateArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? activate_rows<float, ExactGelu>(a, begin, end)
                           : activate_rows<Bf16, ExactGelu>(a, begin, end);
}

// Rotates the first 2 * half channels of a head, as `first * cos - second * sin` and
// `second * cos + first * sin`, rounds to T and stores as U; x and y are different arrays. The products
// are rounded before they are added, as the reference does.
template <class T, class U>
inline void rotate_head(const T* x, const float* cos, const float* sin, U* y, std::int64_t half,
                        std::int64_t size) {
  for (std::int64_t i = 0; i < half; i += kLanes) {
    const Vec first = load_part(x, i, half), second = load_part(x + half, i, half);
    const Vec c = load_part(cos, i, half), s = load_part(sin, i, half);
    store_part(y, rounded<T>(sub(mul(first, c), mul(second, s))), i, half);
    store_part(y + half, rounded<T>(add(mul(second, c), mul(first, s))), i, half);
  }
  copy_row(x + 2 * half, y + 2 * half, size - 2 * half);
}

// The cached head's place: [block][head][offset][channel].
inline std::int64_t cache_offset(const RopeArgs& a, std::int64_t slot, int head) {
  const std::int64_t block = slot / a.block_size, offset = slot % a.block_size;
  return ((block * a.num_kv_heads + head) * a.block_size + offset) * cache_row(a.cache_type, a.head_size);
}

// Writes a head to the cache: rounded to C, or to int8 with its scale behind it.
template <class T, class C>
inline void write_head(const T* x, C* cache, std::int64_t size) {
  if constexpr (sizeof(C) == 1) {
    float values[kLargestNormedHead];
    std::int8_t q[kLargestNormedHead + kLanes];
    copy_row(x, values, size);
    const float scale = quantize_row(values, static_cast<int>(size), q);
    __builtin_memcpy(cache, q, static_cast<std::size_t>(size));
    __builtin_memcpy(cache + size, &scale, kCacheScaleBytes);
  } else {
    copy_row(x, cache, size);
  }
}

template <class T, class C>
void rope_rows(const RopeArgs& a, std::int64_t begin, std::int64_t end) {
  const std::int64_t size = a.head_size;
  T normed[kLargestNormedHead];
  for (std::int64_t token = begin; token < end; ++token) {
    const float* cos = a.cos_sin + a.positions[token] * a.rotary_size;
    const float* sin = cos + a.half;
    const T* q = reinterpret_cast<const T*>(a.q) + token * a.q_stride;
    T* q_out = reinterpret_cast<T*>(a.q_out) + token * a.num_heads * size;
    for (int head = 0; head < a.num_heads; ++head) {
      const T* x = q + head * size;
      if (a.q_norm) {
        norm_row(x, reinterpret_cast<const T*>(a.q_norm), normed, size, a.eps);
        x = normed;
      }
      rotate_head(x, cos, sin, q_out + head * size, a.half, size);
    }
    const T* k = reinterpret_cast<const T*>(a.k) + token * a.k_stride;
    const T* v = reinterpret_cast<const T*>(a.v) + token * a.v_stride;
    for (int head = 0; head < a.num_kv_heads; ++head) {
      C* key = reinterpret_cast<C*>(a.cache) + cache_offset(a, a.slots[token], head);
      const T* x = k + head * size;
      if (a.k_norm) {
        norm_row(x, reinterpret_cast<const T*>(a.k_norm), normed, size, a.eps);
        x = normed;
      }
      if constexpr (sizeof(C) == 1) {
        T rotated[kLargestNormedHead];
        rotate_head(x, cos, sin, rotated, a.half, size);
        write_head(rotated, key, size);
      } else {
        rotate_head(x, cos, sin, key, a.half, size);
      }
      write_head(v + head * size, key + a.value_offset, size);
    }
  }
}

template <class T>
inline void rope_of(const RopeArgs& a, std::int64_t begin, std::int64_t end) {
  switch (a.cache_type) {
    case DType::float32: return rope_rows<T, float>(a, begin, end);
    case DType::bfloat16: return rope_rows<T, Bf16>(a, begin, end);
    case DType::int8: return rope_rows<T, std::int8_t>(a, begin, end);
  }
}

inline void rope(const RopeArgs& a, std::int64_t begin, std::int64_t end) {
  a.type == DType::float32 ? rope_of<float>(a, begin, end) : rope_of<Bf16>(a, begin, end);
}

}  // namespace quire::QUIRE_TARGET
