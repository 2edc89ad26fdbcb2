// Causal attention over a paged KV cache, for a few queries and all heads that share their KV head. Or, where
// keys and values are packed as the queries are, attention in both directions, of whole sequences.
//
// The keys of a sequence are cut into chunks of kKeyChunk from position 0. For a query, each chunk gives a
// maximum m, a sum l = sum exp(s - m) and weighted values o = sum exp(s - m) v, computed from that query
// and the keys it sees in the chunk alone. Where there are bf16 dot products, and queries and cache are bf16,
// the weights exp(s - m) are rounded to bf16, as on GPUs, and l is the sum of the rounded ones. Chunks merge in ascending order by online softmax (Milakov &
// Gimelshein, 2018). So a query's bits do not depend on which queries share its block, on how the prompt
// was cut, or on whether chunks were computed one after the other or by different threads.

namespace quire::QUIRE_TARGET {

// The arrays of one item, laid out in the thread's scratch.
struct AttentionScratch {
  char* queries;                     // packed tiles, as for a linear layer
  char* panel;                       // 32 keys, transposed: [steps][32]
  float* tile;                       // sums of one dot_tile
  float* scores;                     // [rows][kKeyChunk], then the weights exp(s - m)
  float* values;                     // [rows][padded head size], this chunk's o
  float* merged;                     // [rows][padded head size], the merged o
  float *maxima, *sums;              // [rows], the merged m and l
  float *chunk_maxima, *chunk_sums;  // [rows], this chunk's m and l
  char* padded;                      // copies of the values, if the head size is no multiple of 16
  char* zeros;                       // a row of values
  char* widened;                     // keys and values of a chunk, if the cache is int8
};

inline int padded_size(const AttentionArgs& a) { return ceil_div(a.head_size, kLanes) * kLanes; }

// Lays the arrays out from `base` and returns their total size; `base` may be null to ask for the size.
inline std::size_t lay_out(const AttentionArgs& a, int rows, char* base, AttentionScratch& s) {
  const std::size_t n = static_cast<std::size_t>(rows), width = static_cast<std::size_t>(padded_size(a));
  std::size_t used = 0;
  const auto place = [&](std::size_t bytes) {
    char* at = base + used;
    used += (bytes + 63) / 64 * 64;
    return at;
  };
  const auto floats = [&](std::size_t count) { return reinterpret_cast<float*>(place(count * 4)); };
  s.queries = place(n * (width + 2) * 4 + 64);
  s.panel = place((width + 2) * kPanel * 4);
  s.tile = floats(static_cast<std::size_t>(kFloatRows) * kPanel);
  s.scores = floats(n * kKeyChunk);
  s.values = floats(n * width);
  s.merged = floats(n * width);
  s.maxima = floats(n);
  s.sums = floats(n);
  s.chunk_maxima = floats(n);
  s.chunk_sums = floats(n);
  s.padded = place(a.head_size % kLanes ? kKeyChunk * width * 4 : 0);
  s.zeros = place(width * 4);
  s.widened = place(a.cache_type == DType::int8 ? 2 * kKeyChunk * width * 4 : 0);
  return used;
}

inline std::size_t attention_scratch(const AttentionArgs& a, int rows) {
  AttentionScratch ignored;
  return lay_out(a, rows, nullptr, ignored);
}

struct KeyRange {
  int begin, end;  // relative to the chunk
};

// The keys of a chunk that a query of an item, at `position`, sees.
inline KeyRange visible(const AttentionArgs& a, const AttentionItem& of, int position, int chunk) {
  const int start = chunk * kKeyChunk;
  if (a.packed_stride) {
    const int length = a.query_start[of.seq + 1] - a.query_start[of.seq];
    int begin = a.window > 0 ? position - a.window - start : -start;
    int end = (a.window > 0 && position + a.window + 1 < length ? position + a.window + 1 : length) - start;
    begin = begin < 0 ? 0 : begin < kKeyChunk ? begin : kKeyChunk;
    end = end < kKeyChunk ? end : kKeyChunk;
    return {begin, end < begin ? begin : end};
  }
  int begin = a.window > 0 && position - a.window + 1 > start ? position - a.window + 1 - start : 0;
  begin = begin < kKeyChunk ? begin : kKeyChunk;
  int end = position + 1 - start;
  end = end < kKeyChunk ? end : kKeyChunk;
  if (end < begin) end = begin;
  return {begin, end};
}

// What all rows of an item share while it visits its chunks. T is the type of queries and results, S of the
// cache, and C the type that keys and values are read as: int8 caches are widened to T, chunk by chunk.
template <class T, class S, class C>
struct Attention {
  const AttentionArgs& a;
  const AttentionItem& item;
  AttentionScratch s;
  int group, rows, width, steps;
  DotKind kind;
  Tiling tiling;
  const C* keys[kKeyChunk];
  const C* value_rows[kKeyChunk];
  const S* next_keys[kKeyChunk];  // of the next item's first chunk
  int num_next_keys = 0;

  Attention(const AttentionArgs& args, const AttentionItem& i, void* scratch) : a(args), item(i) {
    group = a.num_heads / a.num_kv_heads;
    rows = item.num_tokens * group;
    width = padded_size(a);
    lay_out(a, rows, static_cast<char*>(scratch), s);
    kind = sizeof(C) == 4 ? DotKind::float_panel : DotKind::pair_panel;
#if defined(QUIRE_PAIR_DOT)
    if (sizeof(C) == 2 && sizeof(T) == 2) kind = DotKind::pair_dot;
#endif
    steps = sizeof(C) == 4 ? a.head_size : ceil_div(a.head_size, 2);
    tiling = Tiling::of(rows, largest_tile(kind));
    __builtin_memset(s.zeros, 0, static_cast<unsigned>(width) * 4);
  }

#if defined(QUIRE_PAIR_DOT)
  // Whether weights are rounded to bf16, so that values are weighed by dot products of pairs of keys.
  static constexpr bool kPairWeights = sizeof(C) == 2 && sizeof(T) == 2;
#else
  static constexpr bool kPairWeights = false;
#endif

  int position_of(int row) const { return item.first_position + row / group; }

  const T* query(int row) const {
    const std::int64_t token = item.first_token + row / group;
    return reinterpret_cast<const T*>(a.q) + token * a.q_stride +
           (std::int64_t{item.kv_head} * group + row % group) * a.head_size;
  }

  void pack_queries() {
    const char* pointers[16];
    char* out = s.queries;
    constexpr DType type = sizeof(T) == 4 ? DType::float32 : DType::bfloat16;
    for (int tile = 0; tile < tiling.tiles; ++tile) {
      const int first = tiling.first_row(tile), count = tiling.rows_of(tile);
      for (int r = 0; r < count; ++r) pointers[r] = reinterpret_cast<const char*>(query(first + r));
      pack_rows(pointers, type, count, a.head_size, kind, out);
      out += static_cast<std::size_t>(count) * static_cast<std::size_t>(steps) * step_bytes(kind);
    }
  }

  // Calls put(j, key) for keys begin..end - 1 of a chunk of an item, with the key's place in the cache.
  template <class F>
  void each_key(const AttentionItem& of, int chunk, KeyRange range, const F& put) const {
    const S* cache = reinterpret_cast<const S*>(a.cache);
    if (a.packed_stride) {
      const std::int64_t token = std::int64_t{a.query_start[of.seq]} + chunk * kKeyChunk + range.begin;
      const S* key = cache + token * a.packed_stride + std::int64_t{of.kv_head} * a.head_size;
      for (int j = range.begin; j < range.end; ++j, key += a.packed_stride) put(j, key);
      return;
    }
    const std::int64_t row = cache_row(a.cache_type, a.head_size);
    const int position = chunk * kKeyChunk + range.begin;
    int offset = position % a.block_size;
    const std::int32_t* block = a.block_tables + of.seq * a.table_width + position / a.block_size;
    for (int j = range.begin; j < range.end; ++block, offset = 0) {
      const std::int64_t head = std::int64_t{*block} * a.num_kv_heads + of.kv_head;
      const S* first = cache + head * a.block_size * row;
      for (; offset < a.block_size && j < range.end; ++offset, ++j) put(j, first + offset * row);
    }
  }

  void find_keys(int chunk, KeyRange range) {
    if constexpr (sizeof(S) == 1) {
      C* place = reinterpret_cast<C*>(s.widened);
      each_key(item, chunk, range, [&](int j, const S* key) {
        keys[j] = widen_head(key, place);
        value_rows[j] = widen_head(key + a.value_offset, place + width);
        place += 2 * width;
      });
      return;
    } else {
      each_key(item, chunk, range, [this](int j, const S* key) {
        keys[j] = key;
        value_rows[j] = key + a.value_offset;
      });
    }
    fetch(keys, range.begin, range.begin + 2 * kPanel < range.end ? range.begin + 2 * kPanel : range.end);
    if (sizeof(S) == 1 || a.head_size % kLanes == 0) return;
    C* copy = reinterpret_cast<C*>(s.padded);
    for (int j = range.begin; j < range.end; ++j, copy += width) {
      __builtin_memset(copy, 0, sizeof(C) * static_cast<unsigned>(width));
      __builtin_memcpy(copy, value_rows[j], sizeof(C) * static_cast<unsigned>(a.head_size));
      value_rows[j] = copy;
    }
  }

  // A head of an int8 cache as C, zeros up to the padded size.
  const C* widen_head(const S* head, C* out) const {
    float scale;
    __builtin_memcpy(&scale, head + a.head_size, kCacheScaleBytes);
    const Vec factor = set1(scale);
    for (int i = 0; i < width; i += kLanes) {
      std::int8_t part[kLanes] = {};
      const int count = a.head_size - i < kLanes ? a.head_size - i : kLanes;
      __builtin_memcpy(part, head + i, static_cast<std::size_t>(count));
      store(out + i, mul(load_bytes(part), factor));
    }
    return out;
  }

  // Finds the keys that the next item starts with, if this one is short enough to fetch them on the way.
  void find_next_keys() {
    if (!item.next || rows > kValueRows) return;
    const AttentionItem& next = *item.next;
    const KeyRange low = visible(a, next, next.first_position, next.first_chunk);
    const KeyRange high = visible(a, next, next.first_position + next.num_tokens - 1, next.first_chunk);
    if (low.begin >= high.end) return;
    int count = 0;
    each_key(next, next.first_chunk, {low.begin, high.end}, [&](int, const S* key) { next_keys[count++] = key; });
    num_next_keys = count;
  }

  // Blocks lie anywhere in memory, where no hardware foresees them: they are fetched ahead of their use.
  template <class E>
  void fetch(const E* const* rows_of_cache, int begin, int end) const {
    const int bytes = static_cast<int>(sizeof(E)) * a.head_size;
    for (int j = begin; j < end; ++j) {
      const char* p = reinterpret_cast<const char*>(rows_of_cache[j]);
      for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + i);
    }
  }

  // scores[row][key] for the panels of 32 keys that overlap the range.
  void score(KeyRange range) {
    const Vec scale = set1(a.scale), cap = set1(a.softcap);
    for (int panel = range.begin / kPanel * kPanel; panel < range.end; panel += kPanel) {
      const int begin = panel > range.begin ? panel : range.begin;
      const int end = panel + kPanel < range.end ? panel + kPanel : range.end;
      fetch(keys, end + kPanel < range.end ? end + kPanel : range.end,
            end + 2 * kPanel < range.end ? end + 2 * kPanel : range.end);
      if (a.head_size % kLanes == 0) fetch(value_rows, begin, end);
      pack_keys(panel, range);
      const char* queries = s.queries;
      for (int tile = 0; tile < tiling.tiles; ++tile) {
        const int first = tiling.first_row(tile), count = tiling.rows_of(tile);
        const DotTile dot = find_tile<kTileVectors, kFloatRows>(kind, count);
        for (int column = 0; column < kPanel; column += kTileVectors * kLanes) {
          dot(queries, s.panel + column * 4, steps, s.tile, true, {s.panel, 0});
          for (int r = 0; r < count; ++r) {
            for (int v = 0; v < kTileVectors; ++v) {
              Vec value = mul(load(s.tile + (r * kTileVectors + v) * kLanes), scale);
              if (a.softcap > 0) value = mul(cap, tanh(div(value, cap)));
              store(s.scores + (first + r) * kKeyChunk + panel + column + v * kLanes, value);
            }
          }
        }
        queries += static_cast<std::size_t>(count) * static_cast<std::size_t>(steps) * step_bytes(kind);
      }
    }
  }

  // Transposes 32 keys; those outside the range are zeros and are never read.
  void pack_keys(int panel, KeyRange range) {
    const std::size_t bytes = sizeof(C) * static_cast<std::size_t>(a.head_size);
    static const char nothing[64] = {};
    for (int half = 0; half < kPanel; half += kLanes) {
      const char* pointers[16];
      const int first = panel + half;
      const int begin = range.begin > first ? range.begin - first : 0;
      int count = range.end - first;
      count = count < 0 ? 0 : count < kLanes ? count : kLanes;
      // A key before the window may have left the cache: repeat the first one that is visible.
      for (int i = 0; i < count; ++i) {
        const int j = first + (i < begin ? begin : i);
        pointers[i] = j < range.end ? reinterpret_cast<const char*>(keys[j]) : nothing;
      }
      if (begin >= count) count = 0;
      std::uint32_t* columns = reinterpret_cast<std::uint32_t*>(s.panel) + half;
      transpose_rows(pointers, count, bytes, kLanes, columns, kPanel);
    }
  }

  // Turns a row's scores into weights exp(s - m), in place, as fp32 or bf16; returns m and the sum.
  static void softmax(float* scores, KeyRange range, float& maximum, float& total) {
    const int first = range.begin / kLanes * kLanes;
    Vec largest_lanes = set1(-__builtin_inff());
    for (int j = first; j < range.end; j += kLanes) {
      const Vec x = keep_lanes(load(scores + j), range.begin > j ? range.begin - j : 0,
                               range.end - j < kLanes ? range.end - j : kLanes, -__builtin_inff());
      store(scores + j, x);
      largest_lanes = max(largest_lanes, x);
    }
    maximum = largest(largest_lanes);
    const Vec m = set1(maximum);
    Vec sums = zero();
    for (int j = first; j < range.end; j += kLanes) {
      Vec weight = exp(sub(load(scores + j), m));
      if constexpr (kPairWeights) {  // the sum is of the rounded weights, so that they sum to one
        weight = round_to_bf16(weight);
        store(reinterpret_cast<Bf16*>(scores) + j, weight);
      } else {
        store(scores + j, weight);
      }
      sums = add(sums, weight);
    }
    total = sum(sums);
  }

  // values[row] += weights[row][j] * v[j] for j in [begin, end), R rows, N vectors of channels.
  template <int R, int N>
  void weigh_tile(int row, int begin, int end, int channel) {
    if (begin >= end) return;
    float* out = s.values + row * width + channel;
    const float* weights = s.scores + row * kKeyChunk;
    Vec sums[R][N];
    QUIRE_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      QUIRE_UNROLL(4)
      for (int n = 0; n < N; ++n) sums[r][n] = load(out + r * width + n * kLanes);
    }
    for (int j = begin; j < end; ++j) {
      Vec value[N];
      QUIRE_UNROLL(4)
      for (int n = 0; n < N; ++n) value[n] = load(value_rows[j] + channel + n * kLanes);
      QUIRE_UNROLL(8)
      for (int r = 0; r < R; ++r) {
        const Vec weight = set1(weights[r * kKeyChunk + j]);
        QUIRE_UNROLL(4)
        for (int n = 0; n < N; ++n) sums[r][n] = fma(weight, value[n], sums[r][n]);
      }
    }
    QUIRE_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      QUIRE_UNROLL(4)
      for (int n = 0; n < N; ++n) store(out + r * width + n * kLanes, sums[r][n]);
    }
  }

#if defined(QUIRE_PAIR_DOT)
  // The same for pairs of keys and bf16 weights: begin and end are even, and value rows that are not to be
  // weighed are zeros.
  template <int R, int N>
  void weigh_pairs(int row, int begin, int end, int channel, const C* const* values) {
    if (begin >= end) return;
    float* out = s.values + row * width + channel;
    const std::int32_t* weights = reinterpret_cast<const std::int32_t*>(s.scores + row * kKeyChunk);
    Vec sums[R][N];
    QUIRE_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      QUIRE_UNROLL(4)
      for (int n = 0; n < N; ++n) sums[r][n] = load(out + r * width + n * kLanes);
    }
    for (int j = begin; j < end; j += 2) {
      if (j + 1 < num_next_keys && channel == 0) fetch(next_keys, j, j + 2);
      __m512i pairs[N];
      interleave<N>(values[j] + channel, values[j + 1] + channel, pairs);
      QUIRE_UNROLL(8)
      for (int r = 0; r < R; ++r) {
        const __m512bh weight = (__m512bh)_mm512_set1_epi32(weights[r * kKeyChunk + j / 2]);
        QUIRE_UNROLL(4)
        for (int n = 0; n < N; ++n) sums[r][n] = _mm512_dpbf16_ps(sums[r][n], weight, (__m512bh)pairs[n]);
      }
    }
    QUIRE_UNROLL(8)
    for (int r = 0; r < R; ++r) {
      QUIRE_UNROLL(4)
      for (int n = 0; n < N; ++n) store(out + r * width + n * kLanes, sums[r][n]);
    }
  }
#endif

  template <int R>
  void weigh_rows(int row, int begin, int end) {
#if defined(QUIRE_PAIR_DOT)
    if constexpr (kPairWeights) {
      int channel = 0;
      for (; channel + kValueVectors * kLanes <= width; channel += kValueVectors * kLanes) {
        weigh_pairs<R, kValueVectors>(row, begin, end, channel, value_rows);
      }
      for (; channel < width; channel += kLanes) weigh_pairs<R, 1>(row, begin, end, channel, value_rows);
      return;
    }
#endif
    int channel = 0;
    for (; channel + kValueVectors * kLanes <= width; channel += kValueVectors * kLanes) {
      weigh_tile<R, kValueVectors>(row, begin, end, channel);
    }
    for (; channel < width; channel += kLanes) weigh_tile<R, 1>(row, begin, end, channel);
  }

  template <int R>
  void weigh(int count, int row, int begin, int end) {
    if constexpr (R > 1) {
      if (count < R) return weigh<R - 1>(count, row, begin, end);
    }
    weigh_rows<R>(row, begin, end);
  }

  // Weighted values of all rows. Rows of a tile share their common keys; the keys before and after, which
  // only some rows see, are added row by row, so that each row still adds in ascending order.
  void weigh_all(int chunk) {
    for (int i = 0; i < rows * width; i += kLanes) store(s.values + i, zero());
    const Tiling tiles = Tiling::of(rows, kValueRows);
    for (int tile = 0; tile < tiles.tiles; ++tile) {
      const int first = tiles.first_row(tile), count = tiles.rows_of(tile);
      // Later rows sit at later positions, so both ends of their ranges only grow.
      const KeyRange low = visible(a, item, position_of(first), chunk);
      const KeyRange high = visible(a, item, position_of(first + count - 1), chunk);
      // Pairs of keys that all rows see.
      const int begin = kPairWeights ? (high.begin + 1) / 2 * 2 : high.begin;
      const int end = kPairWeights ? low.end / 2 * 2 : low.end;
      if (begin >= end) {
        for (int r = first; r < first + count; ++r) weigh_own(r, chunk, 0, kKeyChunk);
        continue;
      }
      for (int r = first; r < first + count; ++r) weigh_own(r, chunk, 0, begin);
      weigh<kValueRows>(count, first, begin, end);
      for (int r = first; r < first + count; ++r) weigh_own(r, chunk, end, kKeyChunk);
    }
  }

  // One row's visible keys within [begin, end).
  void weigh_own(int row, int chunk, int begin, int end) {
    const KeyRange range = visible(a, item, position_of(row), chunk);
    const int first = range.begin > begin ? range.begin : begin, last = range.end < end ? range.end : end;
#if defined(QUIRE_PAIR_DOT)
    if constexpr (kPairWeights) {
      for (int j = first / 2 * 2; j < last; j += 2) {
        const C* zero_row = reinterpret_cast<const C*>(s.zeros);
        const C* pair[2] = {j < first ? zero_row : value_rows[j], j + 1 < last ? value_rows[j + 1] : zero_row};
        // One pair, at the place where weigh_pairs looks for pair j.
        for (int channel = 0; channel < width; channel += kLanes) weigh_pairs<1, 1>(row, j, j + 2, channel, pair - j);
      }
      return;
    }
#endif
    weigh_rows<1>(row, first, last);
  }

  void merge(int row, float maximum, float total, const float* values) {
    merge_partial(s.maxima[row], s.sums[row], s.merged + row * width, maximum, total, values, width);
  }

  static void merge_partial(float& maximum, float& total, float* values, float other_maximum,
                            float other_total, const float* other_values, int width) {
    const float m = maximum > other_maximum ? maximum : other_maximum;
    const Vec mine = exp(set1(maximum - m)), other = exp(set1(other_maximum - m));
    float factors[2][kLanes];
    store(factors[0], mine);
    store(factors[1], other);
    total = total * factors[0][0] + other_total * factors[1][0];
    maximum = m;
    for (int i = 0; i < width; i += kLanes) {
      store(values + i, fma(load(other_values + i), other, mul(load(values + i), mine)));
    }
  }

  void clear_merged() {
    for (int r = 0; r < rows; ++r) {
      s.maxima[r] = -__builtin_inff();
      s.sums[r] = 0.0f;
    }
    for (int i = 0; i < rows * width; i += kLanes) store(s.merged + i, zero());
  }

  float* partial(int chunk, int row) const {
    const std::int64_t index = std::int64_t{chunk - item.first_partial} * rows + row;
    return item.partials + index * (width + kLanes);
  }

  // Computes a chunk for all rows that see some of it.
  void visit(int chunk) {
    const KeyRange low = visible(a, item, item.first_position, chunk);
    const KeyRange high = visible(a, item, item.first_position + item.num_tokens - 1, chunk);
    const KeyRange range = {low.begin, high.end};
    if (range.begin >= range.end) return;
    find_keys(chunk, range);
    score(range);
    for (int r = 0; r < rows; ++r) {
      const KeyRange own = visible(a, item, position_of(r), chunk);
      if (own.begin < own.end) softmax(s.scores + r * kKeyChunk, own, s.chunk_maxima[r], s.chunk_sums[r]);
    }
    weigh_all(chunk);
    for (int r = 0; r < rows; ++r) {
      const KeyRange own = visible(a, item, position_of(r), chunk);
      if (own.begin >= own.end) continue;
      const float* values = s.values + r * width;
      if (item.partials) {
        float* p = partial(chunk, r);
        p[0] = s.chunk_maxima[r];
        p[1] = s.chunk_sums[r];
        for (int i = 0; i < width; i += kLanes) store(p + kLanes + i, load(values + i));
      } else {
        merge(r, s.chunk_maxima[r], s.chunk_sums[r], values);
      }
    }
  }

  void merge_partials() {
    for (int chunk = item.first_chunk; chunk < item.end_chunk; ++chunk) {
      for (int r = 0; r < rows; ++r) {
        const KeyRange own = visible(a, item, position_of(r), chunk);
        if (own.begin >= own.end) continue;
        const float* p = partial(chunk, r);
        merge(r, p[0], p[1], p + kLanes);
      }
    }
  }

  // Adds the sinks to the sums and writes the rows of the output.
  void write() {
    for (int r = 0; r < rows; ++r) {
      const int head = item.kv_head * group + r % group;
      const std::int64_t token = item.first_token + r / group;
      float* values = s.merged + r * width;
      if (a.sinks) {
        for (int i = 0; i < width; i += kLanes) store(s.values + i, zero());
        merge(r, a.sinks[head], 1.0f, s.values);
      }
      const Vec scale = set1(1.0f / s.sums[r]);
      T* out = reinterpret_cast<T*>(a.out) + (token * a.num_heads + head) * a.head_size;
      for (int i = 0; i < a.head_size; i += kLanes) {
        store_part(out, mul(load(values + i), scale), i, a.head_size);
      }
    }
  }

  void run() {
    pack_queries();
    find_next_keys();
    if (!item.partials) clear_merged();
    for (int chunk = item.first_chunk; chunk < item.end_chunk; ++chunk) visit(chunk);
    if (!item.partials) write();
  }

  void run_merge() {
    clear_merged();
    merge_partials();
    write();
  }
};

template <class T, class S, class C>
void attention_of(const AttentionArgs& a, const AttentionItem& item, void* scratch, bool merge) {
  Attention<T, S, C> attention(a, item, scratch);
  merge ? attention.run_merge() : attention.run();
}

template <class T>
void attention_from(const AttentionArgs& a, const AttentionItem& item, void* scratch, bool merge) {
  switch (a.cache_type) {
    case DType::float32: return attention_of<T, float, float>(a, item, scratch, merge);
    case DType::bfloat16: return attention_of<T, Bf16, Bf16>(a, item, scratch, merge);
    case DType::int8: return attention_of<T, std::int8_t, T>(a, item, scratch, merge);
  }
}

inline void attention_any(const AttentionArgs& a, const AttentionItem& item, void* scratch, bool merge) {
  a.type == DType::float32 ? attention_from<float>(a, item, scratch, merge)
                           : attention_from<Bf16>(a, item, scratch, merge);
}

inline void attention(const AttentionArgs& a, const AttentionItem& item, void* scratch) {
  attention_any(a, item, scratch, false);
}

inline void attention_merge(const AttentionArgs& a, const AttentionItem& item, void* scratch) {
  attention_any(a, item, scratch, true);
}

}  // namespace quire::QUIRE_TARGET
