// quire.kernels._C: pointers and sizes from Python to the ops. The Python side (kernels/cpu.py) owns the
// tensors and has checked dtypes, shapes and strides; here the GIL is released and the op runs.
//
// Build: one C++17 extension of all *.cpp in this folder, with -O3 -fno-math-errno -ffp-contract=off
// -pthread. Contraction must be off: fused and unfused forms of one expression, chosen per loop by the
// compiler, would make a result depend on the loop that computed it. No -march: each target_*.cpp names its
// instruction set itself, and the one to use is chosen at run time.
#include "isa.h"
#include "ops.h"
#include "thread_pool.h"

#include <pybind11/pybind11.h>

namespace py = pybind11;
using quire::DType;
using Address = std::uintptr_t;

namespace {

template <class T = char>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

DType dtype(int code) { return static_cast<DType>(code); }

void linear(Address x, int type, std::int64_t x_stride, std::int64_t rows, Address packed, int weight_type,
            std::int64_t out_features, std::int64_t in_features, Address bias, int bias_type, Address y) {
  quire::linear({at<const char>(x), dtype(type), x_stride, rows, at<const char>(packed), dtype(weight_type),
                 out_features, in_features, at<const void>(bias), dtype(bias_type), at(y)});
}

void pack_weight(Address weight, int type, std::int64_t stride, std::int64_t out_features,
                 std::int64_t in_features, Address packed) {
  quire::pack_weight(at<const char>(weight), dtype(type), stride, out_features, in_features, at(packed));
}

void rms_norm(Address x, std::int64_t x_stride, Address residual, std::int64_t residual_stride,
              Address weight, Address y, Address total, int type, std::int64_t rows, std::int64_t size,
              float eps) {
  quire::rms_norm({dtype(type), at<const char>(x), at<const char>(residual), at<const char>(weight), at(y),
                   at(total), x_stride, residual_stride, size, eps},
                  rows);
}

void silu_and_mul(Address x, std::int64_t x_stride, Address y, int type, std::int64_t rows,
                  std::int64_t size) {
  quire::silu_and_mul({dtype(type), at<const char>(x), at(y), x_stride, size}, rows);
}

void gelu_and_mul(Address x, std::int64_t x_stride, Address y, int type, std::int64_t rows,
                  std::int64_t size) {
  quire::gelu_and_mul({dtype(type), at<const char>(x), at(y), x_stride, size}, rows);
}

void rope_and_cache_write(Address q, std::int64_t q_stride, Address k, std::int64_t k_stride, Address v,
                          std::int64_t v_stride, Address q_out, int type, Address cos_sin,
                          std::int64_t rotary_size, std::int64_t num_positions, int half, Address cache,
                          int cache_type, std::int64_t value_offset, std::int64_t num_slots,
                          Address positions, Address slots, std::int64_t tokens, int num_heads,
                          int num_kv_heads, int head_size, int block_size, Address q_norm, Address k_norm, float eps) {
  quire::RopeArgs a{};
  a.type = dtype(type);
  a.cache_type = dtype(cache_type);
  a.q = at<const char>(q);
  a.k = at<const char>(k);
  a.v = at<const char>(v);
  a.q_stride = q_stride;
  a.k_stride = k_stride;
  a.v_stride = v_stride;
  a.q_out = at(q_out);
  a.cos_sin = at<const float>(cos_sin);
  a.rotary_size = rotary_size;
  a.num_positions = num_positions;
  a.cache = at(cache);
  a.value_offset = value_offset;
  a.num_slots = num_slots;
  a.positions = at<const std::int64_t>(positions);
  a.slots = at<const std::int64_t>(slots);
  a.num_heads = num_heads;
  a.num_kv_heads = num_kv_heads;
  a.head_size = head_size;
  a.half = half;
  a.block_size = block_size;
  a.q_norm = at<const char>(q_norm);
  a.k_norm = at<const char>(k_norm);
  a.eps = eps;
  quire::rope_and_cache_write(a, tokens);
}

void paged_attention(Address q, std::int64_t q_stride, Address out, int type, Address cache, int cache_type,
                     std::int64_t value_offset, std::int64_t num_blocks, Address query_start,
                     Address seq_lens, Address block_tables, std::int64_t table_width, int num_seqs,
                     int num_heads, int num_kv_heads, int head_size, int block_size, float scale, int window,
                     float softcap, Address sinks) {
  quire::AttentionArgs a{};
  a.type = dtype(type);
  a.cache_type = dtype(cache_type);
  a.q = at<const char>(q);
  a.q_stride = q_stride;
  a.out = at(out);
  a.cache = at<const char>(cache);
  a.value_offset = value_offset;
  a.num_blocks = num_blocks;
  a.query_start = at<const std::int32_t>(query_start);
  a.seq_lens = at<const std::int32_t>(seq_lens);
  a.block_tables = at<const std::int32_t>(block_tables);
  a.table_width = table_width;
  a.num_seqs = num_seqs;
  a.num_heads = num_heads;
  a.num_kv_heads = num_kv_heads;
  a.head_size = head_size;
  a.block_size = block_size;
  a.scale = scale;
  a.softcap = softcap;
  a.window = window;
  a.sinks = at<const float>(sinks);
  quire::paged_attention(a);
}

py::dict cpu_features() {
  const quire::CpuFeatures& f = quire::cpu_features();
  py::dict d;
  d["avx2"] = f.avx2;
  d["avx_vnni"] = f.avx_vnni;
  d["avx512"] = f.avx512;
  d["avx512_vnni"] = f.avx512_vnni;
  d["avx512_bf16"] = f.avx512_bf16;
  return d;
}

py::tuple isa() {
  const quire::IsaChoice choice = quire::current_isa();
  return py::make_tuple(quire::isa_name(choice.isa), choice.bf16);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "quire's CPU kernels; quire.kernels.cpu gives them tensors.";
  const auto released = py::call_guard<py::gil_scoped_release>();
  m.def("linear", &linear, released);
  m.def("pack_weight", &pack_weight, released);
  m.def("rms_norm", &rms_norm, released);
  m.def("silu_and_mul", &silu_and_mul, released);
  m.def("gelu_and_mul", &gelu_and_mul, released);
  m.def("rope_and_cache_write", &rope_and_cache_write, released);
  m.def("paged_attention", &paged_attention, released);
  m.def("probe", &quire::probe, released);
  m.def("num_threads", &quire::num_threads);
  m.def("set_num_threads", &quire::set_num_threads, released);
  m.def("cpu_features", &cpu_features);
  m.def("isa", &isa);
  m.def("set_isa", &quire::set_isa);
}
