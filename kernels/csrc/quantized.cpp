// Int8 and int4 weights: packing them, splitting their products into tasks, reading single rows.
#include "ops.h"
#include "thread_pool.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace quire {
namespace {

// Packed activations of a block of rows: a piece of this size and a panel stay in a core's L2 cache.
constexpr std::int64_t kBlockBytes = 384 << 10;
// Tiles of rows that repay unpacking a panel of int4 for them, and the bytes of a panel up to which it stays
// near enough to be read again and again.
constexpr int kTilesToUnpack = 24;
constexpr std::int64_t kLargestUnpacked = 64 << 10;
// Rows whose packed activations are held at once.
constexpr int kRowsAtOnce = 2048;
// Tasks per thread, so that threads end together.
constexpr int kTasksPerThread = 8;

// Where the packed activations of all rows lie in the thread's scratch.
struct PackedRows {
  char* x;
  std::int32_t* sums;
  float* scales;
};

PackedRows lay_out(const QuantizedLinearArgs& a, std::int64_t rows) {
  const std::int64_t columns = a.layout.padded_columns(), groups = a.layout.groups();
  const std::int64_t x_bytes = (rows * columns * (a.int8_activations ? 1 : 4) + 63) / 64 * 64;
  const std::int64_t sum_bytes = a.int8_activations ? (rows * groups * 4 + 63) / 64 * 64 : 0;
  char* base = static_cast<char*>(thread_scratch(0, static_cast<std::size_t>(x_bytes + sum_bytes + rows * 4)));
  char* sums = base + x_bytes;
  return {base, a.int8_activations ? reinterpret_cast<std::int32_t*>(sums) : nullptr,
          reinterpret_cast<float*>(sums + sum_bytes)};
}

void pack_rows(const QuantizedLinearArgs& a, const KernelTable& table, const PackedRows& packed,
               std::int64_t first, const Tiling& tiling) {
  const QuantizedLayout& l = a.layout;
  const std::int64_t columns = l.padded_columns();
  parallel_for(tiling.tiles, std::int64_t{4} * tiling.rows_of(0) * columns, [&](std::int64_t i) {
    const int tile = static_cast<int>(i);
    const std::int64_t row = tiling.first_row(tile);
    PackRows p;
    p.layout = l;
    p.x = a.x + (first + row) * a.x_stride * static_cast<std::int64_t>(size_of(a.x_type));
    p.type = a.x_type;
    p.stride = a.x_stride;
    p.rows = tiling.rows_of(tile);
    p.order = a.order;
    p.out = packed.x + row * columns * (packed.sums ? 1 : 4);
    p.sums = packed.sums ? packed.sums + row * l.groups() : nullptr;
    p.scales = packed.scales + row;
    p.scratch = thread_scratch(1, row_scratch(l));
    table.pack_quantized_rows(p);
  });
}

void linear_rows(const QuantizedLinearArgs& a, const KernelTable& table, std::int64_t first, int count) {
  const QuantizedLayout& l = a.layout;
  const PackedRows packed = lay_out(a, count);
  const std::int64_t row_bytes = std::int64_t{l.padded_columns()} * (packed.sums ? 1 : 4);
  const Tiling tiling = Tiling::of(count, table.quantized_rows);
  pack_rows(a, table, packed, first, tiling);

  // Tiles are spread evenly over blocks, and panels over tasks. Neighbouring tasks share panels, so that
  // a weight is read from memory once for all blocks of rows.
  const int tile_bytes = static_cast<int>(std::max<std::int64_t>(1, table.quantized_rows * row_bytes));
  const Tiling blocks = Tiling::of(tiling.tiles, std::max<int>(1, static_cast<int>(kBlockBytes / tile_bytes)));
  const std::int64_t panels = ceil_div(a.out_features, std::int64_t{kPanel});
  const std::int64_t wanted = ceil_div(kTasksPerThread * num_threads(), blocks.tiles);
  const std::int64_t width = std::max<std::int64_t>(1, panels / wanted);
  const std::int64_t work = width * kPanel * l.in_features * tiling.rows_of(0);
  parallel_for(ceil_div(panels, width) * blocks.tiles, work, [&](std::int64_t task) {
    const int block = static_cast<int>(task % blocks.tiles);
    const int first_tile = blocks.first_row(block), tiles = blocks.rows_of(block);
    const std::int64_t row = tiling.first_row(first_tile);
    QuantizedTask t;
    t.layout = l;
    t.x = packed.x + row * row_bytes;
    t.x_sums = packed.sums ? packed.sums + row * l.groups() : nullptr;
    t.row_scales = packed.scales + row;
    t.tiling.tiles = tiles;
    t.tiling.rows = tiling.rows;
    t.tiling.longer = std::clamp(tiling.longer - first_tile, 0, tiles);
    const bool unpack =
        l.bits == 4 && packed.sums && tiles >= kTilesToUnpack && l.unpacked_bytes() <= kLargestUnpacked;
    t.unpacked = unpack ? static_cast<char*>(thread_scratch(2, static_cast<std::size_t>(l.unpacked_bytes())))
                        : nullptr;
    t.weight = a.packed;
    t.first_panel = task / blocks.tiles * width;
    t.panels = std::min(width, panels - t.first_panel);
    t.out_features = a.out_features;
    t.bias = a.bias;
    t.bias_type = a.bias_type;
    t.y = a.y + (first + row) * a.out_features * static_cast<std::int64_t>(size_of(a.y_type));
    t.y_type = a.y_type;
    table.quantized_linear(t);
  });
}

// The value of column k of row `column` of a panel.
struct PanelReader {
  const QuantizedLayout& l;
  const char* panel;
  int column;

  float scale(int group) const {
    const char* p = panel + l.group_offset(group) + column * static_cast<int>(size_of(l.scale_type));
    if (l.scale_type == ScaleType::float32) {
      float value;
      std::memcpy(&value, p, 4);
      return value;
    }
    std::uint16_t bits;
    std::memcpy(&bits, p, 2);
    return l.scale_type == ScaleType::float16 ? half_to_float(bits) : to_scalar(Bf16{bits});
  }

  int zero(int group) const {
    if (!l.asymmetric) return l.bits == 4 ? 8 : 0;
    std::int16_t value;
    std::memcpy(&value, panel + l.group_offset(group) + kPanel * size_of(l.scale_type) + column * 2, 2);
    return value;
  }

  // Calls put(k, value) for all columns k.
  template <class F>
  void each(const F& put) const {
    for (int group = 0; group < l.groups(); ++group) {
      const float factor = scale(group);
      const int offset = zero(group) + (l.bits == 4 ? 0 : 128);
      const char* step = panel + l.group_offset(group) + l.header_bytes() + column * 4;
      const int begin = group * l.group_size, end = std::min(l.in_features, begin + l.group_size);
      for (int k = begin; k < end; k += l.step_columns(), step += 128) {
        std::uint32_t word;
        std::memcpy(&word, step, 4);
        const int n = std::min(l.step_columns(), end - k);
        for (int i = 0; i < n; ++i) {
          const int q = static_cast<int>(l.bits == 4 ? word >> (i % 4 * 8 + i / 4 * 4) & 15 : word >> i * 8 & 255);
          put(k + i, static_cast<float>(q - offset) * factor);
        }
      }
    }
  }
};

template <class T>
void put_value(T* out, float value);
template <>
void put_value(float* out, float value) {
  *out = value;
}
template <>
void put_value(Bf16* out, float value) {
  *out = to_bf16(value);
}

template <class T>
void read_quantized_row(const RowsArgs& a, std::int64_t row, T* out) {
  const PanelReader reader{a.layout, a.packed + row / kPanel * a.layout.panel_bytes(),
                           static_cast<int>(row % kPanel)};
  reader.each([&](int k, float value) { put_value(out + (a.order ? a.order[k] : k), value); });
}

// A dense panel is [steps][32] words, each one fp32 or two bf16.
template <class T>
void read_dense_row(const RowsArgs& a, std::int64_t row, T* out) {
  const bool wide = a.weight_type == DType::float32;
  const int columns = a.layout.in_features, steps = wide ? columns : (columns + 1) / 2;
  const char* word = a.packed + (row / kPanel * kPanel * steps + row % kPanel) * 4;
  for (int k = 0; k < columns; k += wide ? 1 : 2, word += kPanel * 4) {
    if (wide) {
      float value;
      std::memcpy(&value, word, 4);
      put_value(out + k, value);
    } else {
      Bf16 pair[2];
      std::memcpy(pair, word, 4);
      put_value(out + k, to_scalar(pair[0]));
      if (k + 1 < columns) put_value(out + k + 1, to_scalar(pair[1]));
    }
  }
}

template <class T>
void read_row(const RowsArgs& a, std::int64_t row, T* out) {
  a.quantized ? read_quantized_row(a, row, out) : read_dense_row(a, row, out);
}

}  // namespace

void quantize_weight(const QuantizeArgs& args) {
  const KernelTable& table = kernels();
  const std::int64_t block = std::max<std::int64_t>(1, 65536 / std::max<std::int64_t>(1, args.in_features));
  parallel_for(ceil_div(args.out_features, block), block * args.in_features, [&](std::int64_t i) {
    table.quantize_weight(args, i * block, std::min(args.out_features, (i + 1) * block));
  });
}

void pack_quantized(const PackQuantizedArgs& a) {
  const QuantizedLayout& l = a.layout;
  const std::int64_t row_bytes = l.bits == 4 ? (l.in_features + 1) / 2 : l.in_features;
  const std::int64_t scale_bytes = static_cast<std::int64_t>(size_of(l.scale_type));
  const std::int64_t groups = l.groups();
  // Bytes that one step takes from a row of the canonical form: 4, whatever the bits.
  parallel_for(ceil_div(a.out_features, std::int64_t{kPanel}), kPanel * l.in_features, [&](std::int64_t panel) {
    char* out = a.packed + panel * l.panel_bytes();
    std::memset(out, 0, static_cast<std::size_t>(l.panel_bytes()));
    const int rows = static_cast<int>(std::min<std::int64_t>(kPanel, a.out_features - panel * kPanel));
    for (int column = 0; column < rows; ++column) {
      const std::int64_t row = panel * kPanel + column;
      const std::uint8_t* data = reinterpret_cast<const std::uint8_t*>(a.data) + row * row_bytes;
      for (std::int64_t group = 0; group < groups; ++group) {
        char* header = out + l.group_offset(static_cast<int>(group));
        std::memcpy(header + column * scale_bytes, a.scales + (row * groups + group) * scale_bytes,
                    static_cast<std::size_t>(scale_bytes));
        if (l.asymmetric) {
          std::memcpy(header + kPanel * scale_bytes + column * 2, a.zeros + row * groups + group, 2);
        }
        char* step = header + l.header_bytes() + column * 4;
        const std::int64_t begin = group * l.group_size;
        const std::int64_t end = std::min<std::int64_t>(l.in_features, begin + l.group_size);
        for (std::int64_t k = begin; k < end; k += l.step_columns(), step += 128) {
          std::uint8_t taken[4] = {};
          const std::int64_t from = l.bits == 4 ? k / 2 : k;
          std::memcpy(taken, data + from, static_cast<std::size_t>(std::min<std::int64_t>(4, row_bytes - from)));
          if (l.bits == 8) {
            for (std::uint8_t& byte : taken) byte = static_cast<std::uint8_t>(byte ^ 0x80);
          } else {  // nibbles 01 23 45 67 become 04 15 26 37
            const std::uint8_t a0 = taken[0], a1 = taken[1], a2 = taken[2], a3 = taken[3];
            taken[0] = static_cast<std::uint8_t>((a0 & 15) | a2 << 4);
            taken[1] = static_cast<std::uint8_t>(a0 >> 4 | (a2 & 0xf0));
            taken[2] = static_cast<std::uint8_t>((a1 & 15) | a3 << 4);
            taken[3] = static_cast<std::uint8_t>(a1 >> 4 | (a3 & 0xf0));
          }
          std::memcpy(step, taken, 4);
        }
      }
    }
  });
}

void quantized_linear(const QuantizedLinearArgs& args) {
  // A sum of K products of at most 255 * 127 must fit 32 bits.
  if (args.int8_activations && args.layout.in_features > 65536) {
    throw std::invalid_argument("int8 products take at most 65536 input features, got " +
                                std::to_string(args.layout.in_features));
  }
  const KernelTable& table = kernels();
  for (std::int64_t first = 0; first < args.rows; first += kRowsAtOnce) {
    linear_rows(args, table, first, static_cast<int>(std::min<std::int64_t>(kRowsAtOnce, args.rows - first)));
  }
}

void read_rows(const RowsArgs& a, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (a.ids[i] < 0 || a.ids[i] >= a.out_features) {
      throw std::out_of_range("row " + std::to_string(a.ids[i]) + " is not in [0, " +
                              std::to_string(a.out_features) + ")");
    }
  }
  const std::int64_t columns = a.layout.in_features;
  parallel_for(count, 8 * columns, [&](std::int64_t i) {
    if (a.out_type == DType::float32) {
      read_row(a, a.ids[i], reinterpret_cast<float*>(a.out) + i * columns);
    } else {
      read_row(a, a.ids[i], reinterpret_cast<Bf16*>(a.out) + i * columns);
    }
  });
}

}  // namespace quire
