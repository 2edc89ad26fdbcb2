// Calls every op of kernels/csrc with random shapes, on every instruction set and on 1 to 3 threads, for the
// sanitizers to watch. Arrays are allocated to the byte, so that reading or writing one element too many is
// an error that shows. Besides, every value of a result must be written (results start as NaN, and no input
// leads to one), and must have the same bits on any number of threads.
//
//     fuzz_kernels SEED CASES [FIRST]
//
// prints each case before it runs; the case of number I depends on SEED and I alone.
#include "fuzz_tools.h"
#include "isa.h"
#include "ops.h"
#include "thread_pool.h"

#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>

using namespace quire;

namespace {

struct Bias {
  DType type = any_type();
  Bytes bytes;
  bool present = maybe();
  explicit Bias(std::int64_t n) : bytes(floats(type, n)) {}
  const void* get() const { return present ? bytes.get() : nullptr; }
};

std::int64_t packed_dense(DType type, std::int64_t n, std::int64_t k) {
  return (n + 31) / 32 * 32 * 4 * (type == DType::float32 ? k : (k + 1) / 2);
}

void fuzz_linear(int threads) {
  const std::int64_t m = size_up_to(one_of<std::int64_t>({40, 1100})), n = size_up_to(300), k = size_up_to(700);
  const DType x_type = any_type(), weight_type = any_type(), y_type = any_type();
  std::printf("linear %ld x %ld x %ld, %s %s %s\n", m, n, k, name(x_type), name(weight_type), name(y_type));
  const Matrix x(x_type, m, k), weight(weight_type, n, k);
  const Bias bias(n);
  const Bytes packed(static_cast<std::size_t>(packed_dense(weight_type, n, k)));
  pack_weight(weight.get(), weight_type, weight.stride, n, k, packed.get());
  Bytes y(bytes_of(y_type, m * n));
  run(threads, {{&y, y_type}}, [&] {
    linear({x.get(), x_type, x.stride, m, packed.get(), weight_type, n, k, bias.get(), bias.type, y.get(), y_type});
  });
}

QuantizedLayout any_layout(std::int64_t k) {
  const std::int64_t group = one_of<std::int64_t>({8, 16, 24, 32, 64, 128, k, k + 5, (k + 7) / 8 * 8});
  const ScaleType scale = one_of({ScaleType::float32, ScaleType::bfloat16, ScaleType::float16});
  return {one_of({4, 8}), static_cast<int>(k), static_cast<int>(group), scale, maybe()};
}

// A quantised weight, in its canonical form and packed.
struct Weight {
  QuantizedLayout layout;
  std::int64_t n;
  Bytes packed, order;
  bool ordered = maybe();

  Weight(const QuantizedLayout& l, std::int64_t rows)
      : layout(l), n(rows), packed(static_cast<std::size_t>((rows + 31) / 32 * l.panel_bytes())), order(permutation(l.in_features)) {
    const std::int64_t groups = l.groups(), row_bytes = l.bits == 4 ? (l.in_features + 1) / 2 : l.in_features;
    Bytes data(static_cast<std::size_t>(rows * row_bytes)), scales(size_of(l.scale_type) * static_cast<std::size_t>(rows * groups));
    for (std::size_t i = 0; i < data.size(); ++i) data.get()[i] = static_cast<char>(between(0, 255));
    std::vector<std::int16_t> zeros(static_cast<std::size_t>(rows * groups));
    for (std::int64_t i = 0; i < rows * groups; ++i) {
      zeros[static_cast<std::size_t>(i)] = static_cast<std::int16_t>(l.bits == 4 ? between(0, 16) : between(-128, 127));
      const float scale = static_cast<float>(between(-100, 100)) / 128;
      if (l.scale_type == ScaleType::float16) {
        scales.as<std::uint16_t>()[i] = float_to_half(scale);
      } else {
        set(scales, static_cast<DType>(l.scale_type), i, scale);
      }
    }
    const Bytes points = integers(zeros);
    pack_quantized({l, rows, data.get(), scales.get(), l.asymmetric ? points.as<std::int16_t>() : nullptr, packed.get()});
  }
  static Bytes permutation(int count) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), 0);
    std::shuffle(values.begin(), values.end(), engine);
    return integers(values);
  }
  const std::int32_t* order_or_null() const { return ordered ? order.as<std::int32_t>() : nullptr; }
};

void fuzz_quantized_linear(int threads) {
  const std::int64_t m = size_up_to(one_of<std::int64_t>({40, 400})), n = size_up_to(300), k = size_up_to(700);
  const DType x_type = any_type(), y_type = any_type();
  const bool int8 = maybe();
  const Weight weight(any_layout(k), n);
  std::printf("int%d linear %ld x %ld x %ld in groups of %d, scales %d, %s, %s, %s x as %s, %s\n", weight.layout.bits, m, n, k,
              weight.layout.group_size, static_cast<int>(weight.layout.scale_type),
              weight.layout.asymmetric ? "asymmetric" : "symmetric", weight.ordered ? "ordered" : "in order", name(x_type),
              int8 ? "int8" : "float", name(y_type));
  const Matrix x(x_type, m, k);
  const Bias bias(n);
  Bytes y(bytes_of(y_type, m * n));
  run(threads, {{&y, y_type}}, [&] {
    quantized_linear({weight.layout, int8, x.get(), x_type, x.stride, m, weight.packed.get(), n,
                      weight.order_or_null(), bias.get(), bias.type, y.get(), y_type});
  });
}

void fuzz_quantize_weight(int threads) {
  const std::int64_t n = size_up_to(200), k = size_up_to(3000);
  const DType type = any_type();
  QuantizedLayout l = any_layout(k);
  if (l.group_size % 8 != 0) l.group_size = static_cast<int>((k + 7) / 8 * 8);
  std::printf("quantize_weight %ld x %ld to int%d in groups of %d, %s\n", n, k, l.bits, l.group_size, name(type));
  const Matrix dense(type, n, k);
  const std::int64_t groups = l.groups();
  Bytes data(static_cast<std::size_t>(n * (l.bits == 4 ? (k + 1) / 2 : k)));
  Bytes scales(size_of(l.scale_type) * static_cast<std::size_t>(n * groups));
  std::vector<Bytes> kept;
  for (const int count : {1, threads}) {
    set_num_threads(count);
    quantize_weight({dense.get(), type, dense.stride, n, k, l.group_size, l.bits, l.scale_type, data.get(), scales.get()});
    kept.push_back(integers(std::vector<char>(data.get(), data.get() + data.size())));
  }
  if (!kept[0].equals(kept[1])) fail("rounded values depend on the number of threads");
}

void fuzz_rows(int threads) {
  const std::int64_t n = size_up_to(200), k = size_up_to(300), count = size_up_to(200);
  const DType type = any_type(), out_type = any_type();
  const bool quantized = maybe();
  std::printf("rows of %s %ld x %ld\n", quantized ? "integers" : name(type), n, k);
  const Weight integer(any_layout(k), n);
  const Matrix dense(type, n, k);
  const Bytes packed(static_cast<std::size_t>(packed_dense(type, n, k)));
  pack_weight(dense.get(), type, dense.stride, n, k, packed.get());
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(count));
  for (std::int64_t& id : chosen) id = between(0, n - 1);
  Bytes ids = integers(chosen), out(bytes_of(out_type, count * k));
  const RowsArgs args{quantized, type, integer.layout, quantized ? integer.packed.get() : packed.get(), n,
                      quantized ? integer.order_or_null() : nullptr, ids.as<std::int64_t>(), out.get(), out_type};
  run(threads, {{&out, out_type}}, [&] { read_rows(args, count); });
  ids.as<std::int64_t>()[count - 1] = maybe() ? n : -1;
  try {
    read_rows(args, count);
  } catch (const std::out_of_range&) {
    return;
  }
  fail("a row that is not there was read");
}

void fuzz_norm(int threads) {
  const std::int64_t rows = size_up_to(200), size = size_up_to(1100);
  const DType type = any_type();
  const bool sum = maybe(), centered = maybe(), with_bias = maybe();
  std::printf("%s%s_norm of %ld rows of %ld %s\n", sum ? "add_" : "", centered ? "layer" : "rms", rows, size, name(type));
  const Matrix x(type, rows, size), residual(type, rows, size), weight(type, 1, size), bias(type, 1, size);
  Bytes y(bytes_of(type, rows * size)), total(bytes_of(type, rows * size));
  std::vector<std::pair<Bytes*, DType>> results = {{&y, type}};
  if (sum) results.emplace_back(&total, type);
  const NormArgs args{type, x.get(), sum ? residual.get() : nullptr, weight.get(), y.get(),
                      sum ? total.get() : nullptr, x.stride, residual.stride, size, 1e-6f,
                      with_bias ? bias.get() : nullptr};
  run(threads, results, [&] { centered ? layer_norm(args, rows) : rms_norm(args, rows); });
}

void fuzz_gate(int threads) {
  const std::int64_t rows = size_up_to(200), size = size_up_to(700);
  const DType type = any_type();
  const char* op = one_of<const char*>({"silu", "gelu", "exact gelu", "gelu alone", "exact gelu alone"});
  const std::string kind = op;
  std::printf("%s of %ld rows of %ld %s\n", op, rows, size, name(type));
  const Matrix x(type, rows, 2 * size);
  Bytes y(bytes_of(type, rows * size));
  const GateArgs args{type, x.get(), y.get(), x.stride, size};
  run(threads, {{&y, type}}, [&] {
    if (kind == "silu") return silu_and_mul(args, rows);
    if (kind == "gelu") return gelu_and_mul(args, rows);
    if (kind == "exact gelu") return exact_gelu_and_mul(args, rows);
    gelu(args, rows, kind == "exact gelu alone");
  });
}

void fuzz_argmax(int threads) {
  const std::int64_t rows = size_up_to(10), columns = size_up_to(one_of<std::int64_t>({100, 40000}));
  std::printf("argmax of %ld rows of %ld\n", rows, columns);
  const Bytes x = floats(DType::float32, rows * columns);
  const Bytes indices(static_cast<std::size_t>(rows) * 8);
  Bytes values(bytes_of(DType::float32, rows));
  run(threads, {{&values, DType::float32}}, [&] {
    argmax(x.as<float>(), rows, columns, values.as<float>(), indices.as<std::int64_t>());
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* begin = x.as<float>() + row * columns;
      if (std::max_element(begin, begin + columns) - begin != indices.as<std::int64_t>()[row]) fail("argmax is wrong");
    }
  });
}

int any_head_size() { return one_of({1, 2, 8, 16, 20, 33, 48, 64, 80, 96, 128, 256}); }

void fuzz_rope(int threads) {
  const std::int64_t tokens = size_up_to(100), positions = size_up_to(300), blocks = size_up_to(40);
  const int heads_per_group = static_cast<int>(between(1, 4)), kv_heads = static_cast<int>(between(1, 3));
  const int size = any_head_size(), heads = heads_per_group * kv_heads, block_size = one_of({1, 4, 5, 16, 32});
  const int half = static_cast<int>(between(0, size / 2));
  const DType type = any_type(), cache_type = any_type();
  std::printf("rope of %ld tokens, %d and %d heads of %d (%d rotated), blocks of %d, %s into %s\n", tokens, heads,
              kv_heads, size, 2 * half, block_size, name(type), name(cache_type));
  const Matrix q(type, tokens, heads * size), k(type, tokens, kv_heads * size), v(type, tokens, kv_heads * size);
  const Matrix q_norm(type, 1, size), k_norm(type, 1, size);
  const Bytes table = floats(DType::float32, positions * 2 * half);
  const std::int64_t half_cache = blocks * block_size * kv_heads * size;
  std::vector<std::int64_t> where, slots(static_cast<std::size_t>(std::max(tokens, blocks * block_size)));
  for (std::int64_t i = 0; i < tokens; ++i) where.push_back(between(0, positions - 1));
  std::iota(slots.begin(), slots.end(), 0);
  for (std::int64_t& slot : slots) slot %= blocks * block_size;
  if (tokens > blocks * block_size) return;  // two tokens must not share a slot
  std::shuffle(slots.begin(), slots.end(), engine);
  slots.resize(static_cast<std::size_t>(tokens));
  const Bytes position_bytes = integers(where);
  Bytes slot_bytes = integers(slots);
  Bytes out(bytes_of(type, tokens * heads * size)), cache = floats(cache_type, 2 * half_cache);
  RopeArgs a{};
  a.type = type;
  a.cache_type = cache_type;
  a.q = q.get(), a.k = k.get(), a.v = v.get();
  a.q_stride = q.stride, a.k_stride = k.stride, a.v_stride = v.stride;
  a.q_out = out.get();
  a.cos_sin = table.as<float>();
  a.rotary_size = 2 * half, a.num_positions = positions;
  a.cache = cache.get();
  a.value_offset = half_cache, a.num_slots = blocks * block_size;
  a.positions = position_bytes.as<std::int64_t>(), a.slots = slot_bytes.as<std::int64_t>();
  a.num_heads = heads, a.num_kv_heads = kv_heads, a.head_size = size, a.half = half, a.block_size = block_size;
  a.q_norm = maybe() ? q_norm.get() : nullptr, a.k_norm = maybe() ? k_norm.get() : nullptr;
  a.eps = 1e-6f;
  run(threads, {{&out, type}}, [&] { rope_and_cache_write(a, tokens); });
  check_written(cache, cache_type, "the cache holds a NaN");
  slot_bytes.as<std::int64_t>()[0] = maybe() ? blocks * block_size : -1;
  try {
    rope_and_cache_write(a, tokens);
  } catch (const std::out_of_range&) {
    return;
  }
  fail("a slot that is not there was written");
}

void fuzz_attention(int threads) {
  const int kv_heads = static_cast<int>(between(1, 3)), group = one_of({1, 2, 3, 7, 8}), size = any_head_size();
  const int heads = kv_heads * group, block_size = one_of({1, 4, 5, 16, 32}), sequences = static_cast<int>(between(1, 5));
  const int window = maybe() ? 0 : static_cast<int>(size_up_to(600));
  const bool softcap = maybe(), with_sinks = maybe();
  const DType type = any_type(), cache_type = any_type();
  std::printf("attention, %d and %d heads of %d, blocks of %d, window %d%s%s, %s on %s:", heads, kv_heads, size, block_size,
              window, softcap ? ", soft cap" : "", with_sinks ? ", sinks" : "", name(type), name(cache_type));
  std::vector<std::int32_t> lengths, starts = {0};
  std::int64_t blocks = 0, width = 0;
  for (int s = 0; s < sequences; ++s) {
    const std::int64_t length = size_up_to(one_of<std::int64_t>({70, 900}));
    const std::int64_t queries = one_of<std::int64_t>({1, between(0, 1), std::min<std::int64_t>(length, between(1, 90))});
    std::printf(" %ld of %ld", queries, length);
    lengths.push_back(static_cast<std::int32_t>(length));
    starts.push_back(starts.back() + static_cast<std::int32_t>(queries));
    blocks += (length + block_size - 1) / block_size;
    width = std::max(width, (length + block_size - 1) / block_size);
  }
  std::printf("\n");
  const std::int64_t tokens = starts.back();
  if (tokens == 0) return;
  std::vector<std::int32_t> free(static_cast<std::size_t>(blocks)), tables(static_cast<std::size_t>(sequences * width), 1 << 30);
  std::iota(free.begin(), free.end(), 0);
  std::shuffle(free.begin(), free.end(), engine);
  for (std::int64_t s = 0; s < sequences; ++s) {
    const std::int64_t length = lengths[static_cast<std::size_t>(s)];
    const std::int64_t first = length - (starts[static_cast<std::size_t>(s + 1)] - starts[static_cast<std::size_t>(s)]);
    for (std::int64_t i = 0; i < (length + block_size - 1) / block_size; ++i) {
      // Blocks that lie before the window have been given to others.
      const bool seen = window == 0 || (i + 1) * block_size > first - window + 1;
      tables[static_cast<std::size_t>(s * width + i)] = seen ? free.back() : -7;
      free.pop_back();
    }
  }
  const Matrix q(type, tokens, heads * size);
  const std::int64_t half_cache = blocks * block_size * kv_heads * size;
  const Bytes cache = floats(cache_type, 2 * half_cache), sinks = floats(DType::float32, heads);
  const Bytes start_bytes = integers(starts), length_bytes = integers(lengths), table_bytes = integers(tables);
  Bytes out(bytes_of(type, tokens * heads * size));
  AttentionArgs a{};
  a.type = type;
  a.cache_type = cache_type;
  a.q = q.get();
  a.q_stride = q.stride;
  a.out = out.get();
  a.cache = cache.get();
  a.value_offset = half_cache, a.num_blocks = blocks;
  a.query_start = start_bytes.as<std::int32_t>(), a.seq_lens = length_bytes.as<std::int32_t>();
  a.block_tables = table_bytes.as<std::int32_t>();
  a.table_width = width;
  a.num_seqs = sequences, a.num_heads = heads, a.num_kv_heads = kv_heads, a.head_size = size, a.block_size = block_size;
  a.scale = 1.0f / std::sqrt(static_cast<float>(size));
  a.softcap = softcap ? 20.0f : 0.0f;
  a.window = window;
  a.sinks = with_sinks ? sinks.as<float>() : nullptr;
  run(threads, {{&out, type}}, [&] { paged_attention(a); });
}

void fuzz_packed_attention(int threads) {
  const int kv_heads = static_cast<int>(between(1, 3)), group = one_of({1, 2, 3}), size = any_head_size();
  const int heads = kv_heads * group, sequences = static_cast<int>(between(1, 5));
  const int window = maybe() ? 0 : static_cast<int>(size_up_to(600));
  const DType type = any_type();
  std::printf("packed attention, %d and %d heads of %d, window %d, %s:", heads, kv_heads, size, window, name(type));
  std::vector<std::int32_t> starts = {0};
  for (int s = 0; s < sequences; ++s) {
    const std::int64_t length = between(0, one_of<std::int64_t>({3, 70, 600}));
    std::printf(" %ld", length);
    starts.push_back(starts.back() + static_cast<std::int32_t>(length));
  }
  std::printf("\n");
  const std::int64_t tokens = starts.back(), row = (heads + 2 * kv_heads) * size;
  if (tokens == 0) return;
  const Bytes qkv = floats(type, tokens * row), start_bytes = integers(starts);
  Bytes out(bytes_of(type, tokens * heads * size));
  AttentionArgs a{};
  a.type = a.cache_type = type;
  a.q = qkv.get(), a.q_stride = row;
  a.cache = qkv.get() + bytes_of(type, heads * size), a.packed_stride = row;
  a.value_offset = kv_heads * size;
  a.out = out.get();
  a.query_start = start_bytes.as<std::int32_t>();
  a.num_seqs = sequences, a.num_heads = heads, a.num_kv_heads = kv_heads, a.head_size = size;
  a.scale = 1.0f / std::sqrt(static_cast<float>(size));
  a.window = window;
  run(threads, {{&out, type}}, [&] { paged_attention(a); });
}

// The pool itself: loops of many small tasks, loops within loops, from several threads, and errors.
void fuzz_pool(int threads) {
  const std::int64_t tasks = size_up_to(3000), bad = between(-3, tasks - 1);
  std::printf("pool: %ld tasks on %d threads, error in task %ld\n", tasks, threads, bad);
  set_num_threads(threads);
  const auto loop = [&] {
    std::vector<int> done(static_cast<std::size_t>(3 * tasks));
    try {
      parallel_for(tasks, 1 << 20, [&](std::int64_t i) {
        if (i == bad) throw std::runtime_error("a task's error");
        parallel_for(3, 1 << 20, [&](std::int64_t j) { ++done[static_cast<std::size_t>(3 * i + j)]; });
      });
    } catch (const std::runtime_error&) {
      if (bad < 0) fail("an error from nowhere");
      return;
    }
    if (bad >= 0) fail("an error was lost");
    if (std::any_of(done.begin(), done.end(), [](int n) { return n != 1; })) fail("a task was not done once");
  };
  std::thread other(loop);
  for (int i = 0; i < 5; ++i) loop();
  other.join();
}

const std::pair<const char*, void (*)(int)> kOps[] = {
    {"linear", fuzz_linear},       {"quantized_linear", fuzz_quantized_linear},
    {"quantize_weight", fuzz_quantize_weight}, {"rows", fuzz_rows},
    {"norm", fuzz_norm},           {"gate", fuzz_gate},
    {"argmax", fuzz_argmax},       {"rope", fuzz_rope},
    {"attention", fuzz_attention}, {"packed_attention", fuzz_packed_attention},
    {"pool", fuzz_pool},
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) fail("usage: fuzz_kernels SEED CASES [FIRST]");
  const std::uint64_t seed = std::strtoull(arguments[1], nullptr, 10);
  const std::uint64_t first = count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 0;
  const std::uint64_t end = first + std::strtoull(arguments[2], nullptr, 10);
  std::vector<std::string> isas;
  for (const Isa isa : {Isa::plain, Isa::avx2, Isa::avx2_vnni, Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16}) {
    if (is_available(isa)) isas.push_back(isa_name(isa));
  }
  for (std::uint64_t i = first; i < end; ++i) {
    engine.seed(seed * 1000003 + i);
    const std::string& isa = isas[i % isas.size()];
    const auto& op = kOps[i / isas.size() % std::size(kOps)];
    const int threads = static_cast<int>(between(2, 3));
    std::printf("case %lu on %s, %d threads: ", i, isa.c_str(), threads);
    set_isa(isa);
    // Scratch memory only grows. A thread of its own, and new workers (`run` changes their number), make
    // each case's as large as the case needs.
    std::thread([&] { op.second(threads); }).join();
    std::fflush(stdout);
  }
  set_num_threads(1);  // ends the workers
  std::printf("%lu cases on %zu instruction sets are fine\n", end - first, isas.size());
}
