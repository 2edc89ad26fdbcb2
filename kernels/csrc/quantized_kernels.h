// y = x W^T + bias for int8 and int4 weights, see QuantizedLayout in kernels.h for how they are stored.
//
// With int8 activations, a group's products and sums are exact integers; then `total += group * scale` in
// fp32, group after group in ascending K. With fp32 activations a group's sum is one chain of multiply-adds
// in ascending K. Either way a sum is the same for every shape of tile.

namespace quire::QUIRE_TARGET {

inline Vec load_scales(const char* p, ScaleType type) {
  if (type == ScaleType::float16) return load(reinterpret_cast<const Half*>(p));
  if (type == ScaleType::bfloat16) return load(reinterpret_cast<const Bf16*>(p));
  return load(reinterpret_cast<const float*>(p));
}

// How the columns of K lie in a step of 128 bytes.
enum class Stored {
  bytes,    // int8: 4 columns, as q + 128
  pairs,    // int4: 8 columns, two nibbles to a byte
  nibbles,  // int4: 4 columns, a nibble to a byte; a panel is unpacked to this for several tiles of rows
};

constexpr int step_columns(Stored stored) { return stored == Stored::pairs ? 8 : 4; }

// Adds one step's products to the integer sums of R rows times V vectors of columns.
template <Stored S, int R, int V>
inline void quantized_step(const char* w, const std::int32_t* x, Ints (&sums)[R][V]) {
  Ints columns[V];
  QUIRE_UNROLL(2)
  for (int v = 0; v < V; ++v) {
    const Ints stored = load_ints(w + v * 64);
    columns[v] = S == Stored::bytes ? prepare_bytes(stored) : S == Stored::pairs ? low_nibbles(stored) : stored;
  }
  QUIRE_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    const Ints value = set1_int(x[r]);
    QUIRE_UNROLL(2)
    for (int v = 0; v < V; ++v) {
      sums[r][v] = S == Stored::bytes ? dot_bytes(sums[r][v], columns[v], value)
                                      : dot_nibbles(sums[r][v], columns[v], value);
    }
  }
  if constexpr (S == Stored::pairs) {
    QUIRE_UNROLL(2)
    for (int v = 0; v < V; ++v) columns[v] = high_nibbles(load_ints(w + v * 64));
    QUIRE_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      const Ints value = set1_int(x[R + r]);
      QUIRE_UNROLL(2)
      for (int v = 0; v < V; ++v) sums[r][v] = dot_nibbles(sums[r][v], columns[v], value);
    }
  }
}

// Unpacks a panel of pairs to nibbles, headers and all.
inline void unpack_nibbles(const QuantizedLayout& l, const char* w, char* out) {
  for (int left = l.in_features; left > 0; left -= l.group_size) {
    __builtin_memcpy(out, w, static_cast<std::size_t>(l.header_bytes()));
    w += l.header_bytes();
    out += l.header_bytes();
    const int columns = left < l.group_size ? left : l.group_size;
    for (int step = 0; step < ceil_div(columns, 8); ++step, w += 128, out += 256) {
      QUIRE_UNROLL(2)
      for (int v = 0; v < 128; v += 64) {
        const Ints stored = load_ints(w + v);
        store_ints(out + v, low_nibbles(stored));
        store_ints(out + 128 + v, high_nibbles(stored));
      }
    }
  }
}

// total[r][v] = sum over groups of scale * sum of (q - zero) * x, for int8 x.
//
// w: a panel, at its first group. vector: the first of V vectors of 16 columns in the panel.
// x: [K / 4][R] words of four int8. x_sums: [groups][R], the sum of x in each group.
template <Stored S, int R, int V>
inline void quantized_tile(const QuantizedLayout& l, const char* w, int vector, const std::int32_t* x,
                           const std::int32_t* x_sums, Ahead ahead, Vec (&total)[R][V]) {
  constexpr int kStepColumns = step_columns(S);
  // What is stored is q + 8 or q + 128 in unsigned form; dot_bytes may see it shifted to signed.
  constexpr int kOffset = S == Stored::bytes ? kByteOffset : 8;
  const int scale_bytes = static_cast<int>(size_of(l.scale_type));
  QUIRE_UNROLL(8)
  for (int r = 0; r < R; ++r) {
    QUIRE_UNROLL(2)
    for (int v = 0; v < V; ++v) total[r][v] = zero();
  }
  for (int left = l.in_features; left > 0; left -= l.group_size) {
    const char* scales = w + vector * kLanes * scale_bytes;
    const std::int16_t* zeros =
        reinterpret_cast<const std::int16_t*>(w + kPanel * scale_bytes) + vector * kLanes;
    w += l.header_bytes();
    for (int fetched = 0; fetched < ahead.header; fetched += 64) __builtin_prefetch(ahead.place + fetched);
    ahead.place += ahead.header;
    Ints sums[R][V];
    if (l.asymmetric) {
      QUIRE_UNROLL(2)
      for (int v = 0; v < V; ++v) {
        const Ints zero = add(widen_shorts(zeros + v * kLanes), set1_int(S == Stored::bytes ? kByteOffset : 0));
        const Ints negative = sub(set1_int(0), zero);
        QUIRE_UNROLL(8)
        for (int r = 0; r < R; ++r) sums[r][v] = mul(negative, set1_int(x_sums[r]));
      }
    } else {
      QUIRE_UNROLL(8)
      for (int r = 0; r < R; ++r) {
        const Ints start = set1_int(-kOffset * x_sums[r]);
        QUIRE_UNROLL(2)
        for (int v = 0; v < V; ++v) sums[r][v] = start;
      }
    }
    const int columns = left < l.group_size ? left : l.group_size;
    // Unpacked nibbles end with a whole step of pairs.
    const int steps = ceil_div(columns, S == Stored::bytes ? 4 : 8) * (S == Stored::nibbles ? 2 : 1);
    for (int step = 0; step < steps; ++step) {
      __builtin_prefetch(ahead.place);
      __builtin_prefetch(ahead.place + 64);
      ahead.place += ahead.step;
      quantized_step<S, R, V>(w + vector * 64, x, sums);
      w += 2 * 64;
      x += R * (kStepColumns / 4);
    }
    x_sums += R;
    QUIRE_UNROLL(2)
    for (int v = 0; v < V; ++v) {
      const Vec scale = load_scales(scales + v * kLanes * scale_bytes, l.scale_type);
      QUIRE_UNROLL(8)
      for (int r = 0; r < R; ++r) total[r][v] = fma(to_float(sums[r][v]), scale, total[r][v]);
    }
  }
}

// The same for fp32 x: [K][R].
template <int Bits, int R, int V>
inline void exact_tile(const QuantizedLayout& l, const char* w, int vector, const float* x,
                       Vec (&total)[R][V]) {
  constexpr int kStepColumns = Bits == 4 ? 8 : 4;
  const int scale_bytes = static_cast<int>(size_of(l.scale_type));
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) total[r][v] = zero();
  }
  for (int left = l.in_features; left > 0; left -= l.group_size) {
    const char* scales = w + vector * kLanes * scale_bytes;
    const std::int16_t* zeros =
        reinterpret_cast<const std::int16_t*>(w + kPanel * scale_bytes) + vector * kLanes;
    w += l.header_bytes();
    Ints offsets[V];
    Vec sums[R][V];
    for (int v = 0; v < V; ++v) {
      offsets[v] = set1_int(Bits == 4 ? 8 : 128);
      if (l.asymmetric) offsets[v] = add(widen_shorts(zeros + v * kLanes), set1_int(Bits == 4 ? 0 : 128));
      for (int r = 0; r < R; ++r) sums[r][v] = zero();
    }
    const int columns = left < l.group_size ? left : l.group_size;
    const int steps = ceil_div(columns, kStepColumns);
    for (int step = 0; step < steps; ++step) {
      // Byte i of a word is column i; of int4, its low nibble, and the high one is column i + 4.
      for (int i = 0; i < kStepColumns; ++i) {
        for (int v = 0; v < V; ++v) {
          const Ints stored = load_ints(w + (vector + v) * 64);
          const Vec value = to_float(sub(field<Bits>(stored, i % 4 * 8 + i / 4 * 4), offsets[v]));
          QUIRE_UNROLL(8)
          for (int r = 0; r < R; ++r) sums[r][v] = fma(value, set1(x[r]), sums[r][v]);
        }
        x += R;
      }
      w += 2 * 64;
    }
    for (int v = 0; v < V; ++v) {
      const Vec scale = load_scales(scales + v * kLanes * scale_bytes, l.scale_type);
      QUIRE_UNROLL(8)
      for (int r = 0; r < R; ++r) total[r][v] = fma(sums[r][v], scale, total[r][v]);
    }
  }
}

// Scales, adds the bias and stores V vectors of columns of R rows.
template <int R, int V, class T>
inline void write_tile(const QuantizedTask& t, const Vec (&total)[R][V], std::int64_t row, std::int64_t column,
                       const float* row_scales) {
  for (int v = 0; v < V; ++v) {
    const std::int64_t begin = column + v * kLanes, left = t.out_features - begin;
    if (left <= 0) return;
    const int n = left < kLanes ? static_cast<int>(left) : kLanes;
    Vec bias = zero();
    if (t.bias && t.bias_type == DType::float32) {
      bias = load_first(static_cast<const float*>(t.bias) + begin, n);
    } else if (t.bias) {
      bias = load_first(static_cast<const Bf16*>(t.bias) + begin, n);
    }
    T* y = reinterpret_cast<T*>(t.y) + row * t.out_features + begin;
    for (int r = 0; r < R; ++r) {
      Vec value = row_scales ? mul(total[r][v], set1(row_scales[r])) : total[r][v];
      if (t.bias) value = add(value, bias);
      store_first(y + r * t.out_features, value, n);
    }
  }
}

// A tile of R rows times one panel, which lies at `weight`, or unpacked at t.unpacked.
template <Stored S, int R>
void quantized_panel(const QuantizedTask& t, int tile, std::int64_t panel) {
  constexpr int V = kQuantizedVectors, kBits = S == Stored::bytes ? 8 : 4;
  const QuantizedLayout& l = t.layout;
  const std::int64_t row = t.tiling.first_row(tile);
  const char* weight = t.weight + panel * l.panel_bytes();
  // As in linear_columns; two tiles of int8, whose weights are twice as many bytes, wait for memory as one does.
  const int tiles = t.tiling.tiles, step = S == Stored::nibbles ? 64 : 128;
  const Ahead ahead = tiles <= (S == Stored::bytes ? 2 : 1)
                          ? Ahead{weight + kFetchAhead, step, l.header_bytes()}
                          : Ahead{weight + l.panel_bytes() + l.panel_bytes() * tile / tiles, step / tiles};
  for (int vector = 0; vector < 2; vector += V) {
    const std::int64_t column = panel * kPanel + vector * kLanes;
    Vec total[R][V];
    const float* scales = nullptr;
    if (t.x_sums) {
      scales = t.row_scales + row;
      quantized_tile<S, R, V>(l, S == Stored::nibbles ? t.unpacked : weight, vector,
                              reinterpret_cast<const std::int32_t*>(t.x) + row * (l.padded_columns() / 4),
                              t.x_sums + row * l.groups(), ahead, total);
    } else {
      exact_tile<kBits, R, V>(l, weight, vector,
                              reinterpret_cast<const float*>(t.x) + row * l.padded_columns(), total);
    }
    if (t.y_type == DType::float32) {
      write_tile<R, V, float>(t, total, row, column, scales);
    } else {
      write_tile<R, V, Bf16>(t, total, row, column, scales);
    }
  }
}

using QuantizedPanel = void (*)(const QuantizedTask&, int, std::int64_t);

// quantized_panel<S, rows> for a number of rows known at run time.
template <Stored S, int R>
QuantizedPanel find_panel(int rows) {
  if constexpr (R == 0) {
    return nullptr;
  } else {
    return rows == R ? &quantized_panel<S, R> : find_panel<S, R - 1>(rows);
  }
}

inline QuantizedPanel find_panel(Stored stored, int rows) {
  switch (stored) {
    case Stored::bytes: return find_panel<Stored::bytes, kQuantizedRows>(rows);
    case Stored::pairs: return find_panel<Stored::pairs, kQuantizedRows>(rows);
    case Stored::nibbles: return find_panel<Stored::nibbles, kQuantizedRows>(rows);
  }
  return nullptr;
}

inline void quantized_linear(const QuantizedTask& t) {
  const Stored stored = t.layout.bits == 8 ? Stored::bytes : t.unpacked ? Stored::nibbles : Stored::pairs;
  const QuantizedPanel shorter = find_panel(stored, t.tiling.rows);
  const QuantizedPanel longer = t.tiling.longer ? find_panel(stored, t.tiling.rows + 1) : nullptr;
  for (std::int64_t panel = t.first_panel; panel < t.first_panel + t.panels; ++panel) {
    if (t.unpacked) unpack_nibbles(t.layout, t.weight + panel * t.layout.panel_bytes(), t.unpacked);
    for (int tile = 0; tile < t.tiling.tiles; ++tile) {
      (tile < t.tiling.longer ? longer : shorter)(t, tile, panel);
    }
  }
}

// Copies a row to fp32, in the order of the weight's columns, zeros after it.
template <class T>
inline void gather_row(const T* x, const std::int32_t* order, const QuantizedLayout& l, float* out) {
  const int size = l.in_features;
  if (order) {
    for (int k = 0; k < size; ++k) out[k] = to_scalar(x[order[k]]);
  } else {
    for (int k = 0; k < size; k += kLanes) store(out + k, load_part(x, k, size));
  }
  for (int k = size; k < l.padded_columns(); ++k) out[k] = 0.0f;
}

inline void gather_any(const PackRows& p, int row, float* out) {
  if (p.type == DType::float32) {
    gather_row(reinterpret_cast<const float*>(p.x) + row * p.stride, p.order, p.layout, out);
  } else {
    gather_row(reinterpret_cast<const Bf16*>(p.x) + row * p.stride, p.order, p.layout, out);
  }
}

// Packs rows of one tile for int8 products.
inline void pack_int8_rows(const PackRows& p) {
  const QuantizedLayout& l = p.layout;
  const int columns = l.padded_columns(), words = columns / 4;
  float* values = static_cast<float*>(p.scratch);
  std::int8_t* q = reinterpret_cast<std::int8_t*>(values + columns + kLanes);
  std::int32_t* out = reinterpret_cast<std::int32_t*>(p.out);
  for (int r = 0; r < p.rows; ++r) {
    gather_any(p, r, values);
    p.scales[r] = quantize_row(values, columns, q);
    for (int k = 0; k < words; ++k) __builtin_memcpy(out + k * p.rows + r, q + k * 4, 4);
    for (int group = 0, k = 0; k < l.in_features; ++group) {
      const int end = k + l.group_size < columns ? k + l.group_size : columns;
      std::int32_t total = 0;
      for (; k < end; ++k) total += q[k];
      p.sums[group * p.rows + r] = total;
    }
  }
}

// Packs rows of one tile for fp32 products.
inline void pack_float_rows(const PackRows& p) {
  const int columns = p.layout.padded_columns();
  float* values = static_cast<float*>(p.scratch);
  float* out = reinterpret_cast<float*>(p.out);
  for (int r = 0; r < p.rows; ++r) {
    gather_any(p, r, values);
    for (int k = 0; k < columns; ++k) out[k * p.rows + r] = values[k];
  }
}

inline void pack_quantized_rows(const PackRows& p) { p.sums ? pack_int8_rows(p) : pack_float_rows(p); }

}  // namespace quire::QUIRE_TARGET
