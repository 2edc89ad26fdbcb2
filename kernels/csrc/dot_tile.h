// The inner loop of every matrix product: a tile of rows times a tile of columns, over K.
//
// One sum is one chain of multiply-adds in ascending K, in one lane of one register, for every shape of
// tile; that is what makes results independent of the batch.

namespace quire::QUIRE_TARGET {

struct FloatPanel {
  static constexpr int kStepBytes = 4;  // of one row of x

  template <int R, int V>
  static inline void step(const char* x, const char* const* w, Vec (&sums)[R][V]) {
    const float* row = reinterpret_cast<const float*>(x);
    Vec columns[V];
    QUIRE_UNROLL(4)
    for (int v = 0; v < V; ++v) columns[v] = load(reinterpret_cast<const float*>(w[v]));
    QUIRE_UNROLL(16)
    for (int r = 0; r < R; ++r) {
      const Vec value = set1(row[r]);
      QUIRE_UNROLL(4)
      for (int v = 0; v < V; ++v) sums[r][v] = fma(value, columns[v], sums[r][v]);
    }
  }
};

struct PairPanel {
  static constexpr int kStepBytes = 8;

  template <int R, int V>
  static inline void step(const char* x, const char* const* w, Vec (&sums)[R][V]) {
    const float* row = reinterpret_cast<const float*>(x);
    Vec even[V], odd[V];
    QUIRE_UNROLL(4)
    for (int v = 0; v < V; ++v) load_pairs(reinterpret_cast<const Bf16*>(w[v]), even[v], odd[v]);
    QUIRE_UNROLL(16)
    for (int r = 0; r < R; ++r) {
      const Vec value = set1(row[r]);
      QUIRE_UNROLL(4)
      for (int v = 0; v < V; ++v) sums[r][v] = fma(value, even[v], sums[r][v]);
    }
    QUIRE_UNROLL(16)
    for (int r = 0; r < R; ++r) {
      const Vec value = set1(row[R + r]);
      QUIRE_UNROLL(4)
      for (int v = 0; v < V; ++v) sums[r][v] = fma(value, odd[v], sums[r][v]);
    }
  }
};

#if defined(QUIRE_PAIR_DOT)
struct PairDot {
  static constexpr int kStepBytes = 4;

  template <int R, int V>
  static inline void step(const char* x, const char* const* w, Vec (&sums)[R][V]) {
    const std::int32_t* row = reinterpret_cast<const std::int32_t*>(x);
    __m512bh columns[V];
    QUIRE_UNROLL(4)
    for (int v = 0; v < V; ++v) columns[v] = (__m512bh)_mm512_loadu_si512(w[v]);
    QUIRE_UNROLL(16)
    for (int r = 0; r < R; ++r) {
      const __m512bh value = (__m512bh)_mm512_set1_epi32(row[r]);
      QUIRE_UNROLL(4)
      for (int v = 0; v < V; ++v) sums[r][v] = _mm512_dpbf16_ps(sums[r][v], value, columns[v]);
    }
  }
};
#endif

// What a tile fetches from memory while it computes: `step` bytes for each step, and `header` bytes for the
// header of each group.
struct Ahead {
  const char* place;
  int step;
  int header = 0;
};

// sums[r][16 * v + lane] += x[r] . w[column] over `steps` steps; `fresh` starts from zero.
//
// x: [steps][R]. w: the first column's words at step 0, within a panel.
template <class Kind, int R, int V>
void dot_tile(const char* x, const char* w, int steps, float* sums, bool fresh, Ahead ahead) {
  constexpr std::size_t kWordBytes = 4, kWeightStep = kPanel * kWordBytes, kXStep = R * Kind::kStepBytes;
  Vec s[R][V];
  QUIRE_UNROLL(16)
  for (int r = 0; r < R; ++r) {
    QUIRE_UNROLL(4)
    for (int v = 0; v < V; ++v) s[r][v] = fresh ? zero() : load(sums + (r * V + v) * kLanes);
  }
  const char* columns[V];
  QUIRE_UNROLL(4)
  for (int v = 0; v < V; ++v) columns[v] = w + v * kLanes * kWordBytes;
  for (int step = 0; step < steps; ++step) {
    __builtin_prefetch(ahead.place);
    __builtin_prefetch(ahead.place + 64);
    ahead.place += ahead.step;
    Kind::template step<R, V>(x, columns, s);
    x += kXStep;
    QUIRE_UNROLL(4)
    for (int v = 0; v < V; ++v) columns[v] += kWeightStep;
  }
  QUIRE_UNROLL(16)
  for (int r = 0; r < R; ++r) {
    QUIRE_UNROLL(4)
    for (int v = 0; v < V; ++v) store(sums + (r * V + v) * kLanes, s[r][v]);
  }
}

using DotTile = void (*)(const char*, const char*, int, float*, bool, Ahead);

constexpr int largest_tile(DotKind kind) { return kind == DotKind::pair_panel ? kPairRows : kFloatRows; }

// dot_tile<Kind, rows, V> for a number of rows known at run time.
template <class Kind, int V, int R>
DotTile find_tile(int rows) {
  if constexpr (R == 0) {
    return nullptr;
  } else {
    return rows == R ? &dot_tile<Kind, R, V> : find_tile<Kind, V, R - 1>(rows);
  }
}

template <int V, int R>
DotTile find_tile(DotKind kind, int rows) {
#if defined(QUIRE_PAIR_DOT)
  if (kind == DotKind::pair_dot) return find_tile<PairDot, V, R>(rows);
#endif
  if (kind == DotKind::pair_panel) return find_tile<PairPanel, V, R < kPairRows ? R : kPairRows>(rows);
  return find_tile<FloatPanel, V, R>(rows);
}

// Transposes `count` <= 16 rows of `words` 32-bit words (the last one may be half: `bytes` are read) to
// out[word * stride + row]. Writes `lanes` lanes; those past `count` get zeros.
inline void transpose_rows(const char* const* rows, int count, std::size_t bytes, int lanes,
                           std::uint32_t* out, int stride) {
  alignas(64) std::uint32_t padded[16][16];
  alignas(64) std::uint32_t block[16 * 16];
  const std::uint32_t* sources[16];
  for (std::size_t offset = 0; offset < bytes; offset += 64) {
    const std::size_t rest = bytes - offset < 64 ? bytes - offset : 64;
    const int words = static_cast<int>(rest + 3) / 4;
    for (int i = 0; i < 16; ++i) {
      if (i < count && rest == 64) {
        sources[i] = reinterpret_cast<const std::uint32_t*>(rows[i] + offset);
      } else {
        __builtin_memset(padded[i], 0, 64);
        if (i < count) __builtin_memcpy(padded[i], rows[i] + offset, rest);
        sources[i] = padded[i];
      }
    }
    if (lanes == 16 && words == 16) {
      transpose_words(sources, out, stride);
    } else {
      transpose_words(sources, block, 16);
      for (int j = 0; j < words; ++j) {
        __builtin_memcpy(out + j * stride, block + j * 16, static_cast<std::size_t>(lanes) * 4);
      }
    }
    out += 16 * stride;
  }
}

// Splits words of two bf16 into fp32: word j of `lanes` lanes becomes two rows of `lanes` floats.
inline void split_pairs(const std::uint32_t* words, std::int64_t count, int lanes, float* out) {
  for (std::int64_t j = 0; j < count; ++j) {
    for (int i = 0; i < lanes; ++i) {
      const std::uint32_t word = words[j * lanes + i];
      const std::uint32_t even = word << 16, odd = word & 0xffff0000u;
      __builtin_memcpy(out + 2 * j * lanes + i, &even, 4);
      __builtin_memcpy(out + (2 * j + 1) * lanes + i, &odd, 4);
    }
  }
}

// Packs `count` rows into a tile of [steps][count] for `kind`. Floats of an odd K end with a column of
// zeros if `kind` reads pairs.
inline void pack_rows(const char* const* rows, DType type, int count, int size, DotKind kind, char* out) {
  const std::size_t bytes = static_cast<std::size_t>(size) * (type == DType::float32 ? 4 : 2);
  if (type == DType::float32 || kind == DotKind::pair_dot) {
    transpose_rows(rows, count, bytes, count, reinterpret_cast<std::uint32_t*>(out), count);
    if (kind == DotKind::pair_panel && size % 2 == 1) {
      const std::size_t column = static_cast<std::size_t>(count) * 4;
      __builtin_memset(out + static_cast<std::size_t>(size) * column, 0, column);
    }
    return;
  }
  // Widen piece by piece: 32 columns are 16 words.
  alignas(64) std::uint32_t words[16 * 16];
  alignas(64) float floats[32 * 16];
  const char* sources[16];
  const int columns = kind == DotKind::pair_panel ? size + size % 2 : size;
  for (int begin = 0; begin < size; begin += 32) {
    const int n = columns - begin < 32 ? columns - begin : 32;
    const int real = size - begin < 32 ? size - begin : 32;
    for (int i = 0; i < count; ++i) sources[i] = rows[i] + begin * 2;
    transpose_rows(sources, count, static_cast<std::size_t>(real) * 2, count, words, count);
    split_pairs(words, (n + 1) / 2, count, floats);
    __builtin_memcpy(out + static_cast<std::size_t>(begin) * count * 4, floats,
                     static_cast<std::size_t>(n) * count * 4);
  }
}

}  // namespace quire::QUIRE_TARGET
