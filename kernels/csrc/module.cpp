// quire.kernels._C: pointers and sizes from Python to the ops. The Python side (kernels/cpu.py) owns the
// tensors and has checked dtypes, shapes and strides; here the GIL is released and the op runs.
//
// Build: one C++17 extension of all *.cpp in this folder, with -O3 -fno-math-errno -ffp-contract=off
// -pthread. Contraction must be off: fused and unfused forms of one expression, chosen per loop by the
// compiler, would make a result depend on the loop that computed it. No -march: each target_*.cpp names its
// instruction set itself, and the one to use is chosen at run time.
#include "isa.h"
#include "ops.h"
#include "program.h"
#include "thread_pool.h"

#include <pybind11/pybind11.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace py = pybind11;
using quire::DType;
using Address = std::uintptr_t;

namespace {

template <class T = char>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

DType dtype(int code) { return static_cast<DType>(code); }

// The program that listens, if any; only with the GIL held, and by one thread at a time.
std::shared_ptr<quire::Program> recorder;

quire::StepInputs step_inputs(Address input_ids, Address positions, Address slots, std::int64_t tokens,
                              Address query_start, Address seq_lens, Address block_tables,
                              std::int64_t table_width, int num_seqs) {
  return {at<const std::int64_t>(input_ids), at<const std::int64_t>(positions), at<const std::int64_t>(slots),
          at<const std::int32_t>(query_start), at<const std::int32_t>(seq_lens),
          at<const std::int32_t>(block_tables), tokens, table_width, num_seqs};
}

template <class... Inputs>
std::shared_ptr<quire::Program> start_recording(Inputs... inputs) {
  if (recorder) throw std::runtime_error("another forward pass is being recorded");
  recorder = std::make_shared<quire::Program>(step_inputs(inputs...));
  return recorder;
}

void stop_recording() { recorder.reset(); }

// Runs `op`, or leaves it to the recorder. `rows` are the rows it has now; in a replay it gets the step's.
// op(nullptr) runs it as it is, op(&step) with the step's inputs.
template <class Op>
void run_or_record(const char* name, std::int64_t rows, Op op) {
  if (!recorder) {
    const py::gil_scoped_release released;
    op(static_cast<const quire::StepInputs*>(nullptr));
    return;
  }
  if (rows != recorder->capacity()) {
    throw std::runtime_error("an op on " + std::to_string(rows) + " rows is no part of a recorded step of " +
                             std::to_string(recorder->capacity()) + " tokens");
  }
  recorder->add(name, [op](const quire::StepInputs& step) { op(&step); });
}

// Which of the step's inputs an op takes: a replay gives it that of its own step. Any other array would be
// read again in each replay, and is refused.
using TokenInput = const std::int64_t* quire::StepInputs::*;

TokenInput token_input(Address address) {
  if (!recorder) return nullptr;
  for (const TokenInput input :
       {&quire::StepInputs::input_ids, &quire::StepInputs::positions, &quire::StepInputs::slots}) {
    if (recorder->inputs().*input == at<const std::int64_t>(address)) return input;
  }
  throw std::runtime_error("an op takes ids, positions or slots that are not the step's own");
}

void linear(Address x, int type, std::int64_t x_stride, std::int64_t rows, Address packed, int weight_type,
            std::int64_t out_features, std::int64_t in_features, Address bias, int bias_type, Address y,
            int y_type) {
  const quire::LinearArgs args{at<const char>(x), dtype(type), x_stride, rows, at<const char>(packed),
                               dtype(weight_type), out_features, in_features, at<const void>(bias),
                               dtype(bias_type), at(y), dtype(y_type)};
  run_or_record("linear", rows, [args](const quire::StepInputs* step) {
    quire::LinearArgs a = args;
    if (step) a.rows = step->tokens;
    quire::linear(a);
  });
}

void pack_weight(Address weight, int type, std::int64_t stride, std::int64_t out_features,
                 std::int64_t in_features, Address packed) {
  quire::pack_weight(at<const char>(weight), dtype(type), stride, out_features, in_features, at(packed));
}

quire::QuantizedLayout layout(int bits, std::int64_t in_features, std::int64_t group_size, int scale_type,
                              bool asymmetric) {
  return {bits, static_cast<int>(in_features), static_cast<int>(group_size),
          static_cast<quire::ScaleType>(scale_type), asymmetric};
}

std::int64_t packed_bytes(int bits, std::int64_t out_features, std::int64_t in_features,
                          std::int64_t group_size, int scale_type, bool asymmetric) {
  const quire::QuantizedLayout l = layout(bits, in_features, group_size, scale_type, asymmetric);
  return quire::ceil_div(out_features, std::int64_t{quire::kPanel}) * l.panel_bytes();
}

void pack_quantized(Address data, Address scales, Address zeros, int bits, std::int64_t out_features,
                    std::int64_t in_features, std::int64_t group_size, int scale_type, Address packed) {
  quire::pack_quantized({layout(bits, in_features, group_size, scale_type, zeros != 0), out_features,
                         at<const char>(data), at<const char>(scales), at<const std::int16_t>(zeros), at(packed)});
}

void quantize_weight(Address dense, int type, std::int64_t stride, std::int64_t out_features,
                     std::int64_t in_features, std::int64_t group_size, int bits, int scale_type, Address data,
                     Address scales) {
  quire::quantize_weight({at<const char>(dense), dtype(type), stride, out_features, in_features, group_size,
                          bits, static_cast<quire::ScaleType>(scale_type), at(data), at(scales)});
}

void quantized_linear(Address x, int type, std::int64_t x_stride, std::int64_t rows, Address packed, int bits,
                      std::int64_t out_features, std::int64_t in_features, std::int64_t group_size,
                      int scale_type, bool asymmetric, bool int8_activations, Address order, Address bias,
                      int bias_type, Address y, int y_type) {
  const quire::QuantizedLinearArgs args{layout(bits, in_features, group_size, scale_type, asymmetric),
                                        int8_activations,
                                        at<const char>(x),
                                        dtype(type),
                                        x_stride,
                                        rows,
                                        at<const char>(packed),
                                        out_features,
                                        at<const std::int32_t>(order),
                                        at<const void>(bias),
                                        dtype(bias_type),
                                        at(y),
                                        dtype(y_type)};
  run_or_record("linear", rows, [args](const quire::StepInputs* step) {
    quire::QuantizedLinearArgs a = args;
    if (step) a.rows = step->tokens;
    quire::quantized_linear(a);
  });
}

void rows(const quire::RowsArgs& args, std::int64_t count) {
  const TokenInput ids = token_input(reinterpret_cast<Address>(args.ids));
  run_or_record("embedding", count, [args, count, ids](const quire::StepInputs* step) {
    quire::RowsArgs a = args;
    if (step) a.ids = step->*ids;
    quire::read_rows(a, step ? step->tokens : count);
  });
}

void read_dense_rows(Address ids, std::int64_t count, Address packed, int weight_type,
                     std::int64_t out_features, std::int64_t in_features, Address out, int out_type) {
  quire::RowsArgs a{};
  a.weight_type = dtype(weight_type);
  a.layout.in_features = static_cast<int>(in_features);
  a.packed = at<const char>(packed);
  a.out_features = out_features;
  a.ids = at<const std::int64_t>(ids);
  a.out = at(out);
  a.out_type = dtype(out_type);
  rows(a, count);
}

void read_quantized_rows(Address ids, std::int64_t count, Address packed, int bits, std::int64_t out_features,
                         std::int64_t in_features, std::int64_t group_size, int scale_type, bool asymmetric,
                         Address order, Address out, int out_type) {
  quire::RowsArgs a{};
  a.quantized = true;
  a.layout = layout(bits, in_features, group_size, scale_type, asymmetric);
  a.packed = at<const char>(packed);
  a.out_features = out_features;
  a.order = at<const std::int32_t>(order);
  a.ids = at<const std::int64_t>(ids);
  a.out = at(out);
  a.out_type = dtype(out_type);
  rows(a, count);
}

void rms_norm(Address x, std::int64_t x_stride, Address residual, std::int64_t residual_stride,
              Address weight, Address y, Address total, int type, std::int64_t rows, std::int64_t size,
              float eps) {
  const quire::NormArgs args{dtype(type),
                             at<const char>(x),
                             at<const char>(residual),
                             at<const char>(weight),
                             at(y),
                             at(total),
                             x_stride,
                             residual_stride,
                             size,
                             eps};
  run_or_record("rms_norm", rows, [args, rows](const quire::StepInputs* step) {
    quire::rms_norm(args, step ? step->tokens : rows);
  });
}

void layer_norm(Address x, std::int64_t x_stride, Address residual, std::int64_t residual_stride,
                Address weight, Address bias, Address y, Address total, int type, std::int64_t rows,
                std::int64_t size, float eps) {
  const quire::NormArgs args{dtype(type),
                             at<const char>(x),
                             at<const char>(residual),
                             at<const char>(weight),
                             at(y),
                             at(total),
                             x_stride,
                             residual_stride,
                             size,
                             eps,
                             at<const char>(bias)};
  run_or_record("layer_norm", rows, [args, rows](const quire::StepInputs* step) {
    quire::layer_norm(args, step ? step->tokens : rows);
  });
}

void gelu(Address x, std::int64_t x_stride, Address y, int type, std::int64_t rows, std::int64_t size,
          bool exact) {
  const quire::GateArgs args{dtype(type), at<const char>(x), at(y), x_stride, size};
  run_or_record("gelu", rows, [args, rows, exact](const quire::StepInputs* step) {
    quire::gelu(args, step ? step->tokens : rows, exact);
  });
}

void exact_gelu_and_mul(Address x, std::int64_t x_stride, Address y, int type, std::int64_t rows,
                        std::int64_t size) {
  const quire::GateArgs args{dtype(type), at<const char>(x), at(y), x_stride, size};
  run_or_record("exact_gelu_and_mul", rows, [args, rows](const quire::StepInputs* step) {
    quire::exact_gelu_and_mul(args, step ? step->tokens : rows);
  });
}

void silu_and_mul(Address x, std::int64_t x_stride, Address y, int type, std::int64_t rows,
                  std::int64_t size) {
  const quire::GateArgs args{dtype(type), at<const char>(x), at(y), x_stride, size};
  run_or_record("silu_and_mul", rows, [args, rows](const quire::StepInputs* step) {
    quire::silu_and_mul(args, step ? step->tokens : rows);
  });
}

void gelu_and_mul(Address x, std::int64_t x_stride, Address y, int type, std::int64_t rows,
                  std::int64_t size) {
  const quire::GateArgs args{dtype(type), at<const char>(x), at(y), x_stride, size};
  run_or_record("gelu_and_mul", rows, [args, rows](const quire::StepInputs* step) {
    quire::gelu_and_mul(args, step ? step->tokens : rows);
  });
}

void rope_and_cache_write(Address q, std::int64_t q_stride, Address k, std::int64_t k_stride, Address v,
                          std::int64_t v_stride, Address q_out, int type, Address cos_sin,
                          std::int64_t rotary_size, std::int64_t num_positions, int half, Address cache,
                          int cache_type, std::int64_t value_offset, std::int64_t num_slots,
                          Address positions, Address slots, std::int64_t tokens, int num_heads,
                          int num_kv_heads, int head_size, int block_size, Address q_norm, Address k_norm,
                          float eps) {
  quire::RopeArgs args{};
  args.type = dtype(type);
  args.cache_type = dtype(cache_type);
  args.q = at<const char>(q);
  args.k = at<const char>(k);
  args.v = at<const char>(v);
  args.q_stride = q_stride;
  args.k_stride = k_stride;
  args.v_stride = v_stride;
  args.q_out = at(q_out);
  args.cos_sin = at<const float>(cos_sin);
  args.rotary_size = rotary_size;
  args.num_positions = num_positions;
  args.cache = at(cache);
  args.value_offset = value_offset;
  args.num_slots = num_slots;
  args.positions = at<const std::int64_t>(positions);
  args.slots = at<const std::int64_t>(slots);
  args.num_heads = num_heads;
  args.num_kv_heads = num_kv_heads;
  args.head_size = head_size;
  args.half = half;
  args.block_size = block_size;
  args.q_norm = at<const char>(q_norm);
  args.k_norm = at<const char>(k_norm);
  args.eps = eps;
  const TokenInput at_positions = token_input(positions), at_slots = token_input(slots);
  run_or_record("rope_and_cache_write", tokens,
                [args, tokens, at_positions, at_slots](const quire::StepInputs* step) {
    quire::RopeArgs a = args;
    if (step) {
      a.positions = step->*at_positions;
      a.slots = step->*at_slots;
    }
    quire::rope_and_cache_write(a, step ? step->tokens : tokens);
  });
}

void paged_attention(Address q, std::int64_t q_stride, Address out, int type, std::int64_t tokens,
                     Address cache, int cache_type, std::int64_t value_offset, std::int64_t num_blocks,
                     Address query_start, Address seq_lens, Address block_tables, std::int64_t table_width,
                     int num_seqs, int num_heads, int num_kv_heads, int head_size, int block_size,
                     float scale, int window, float softcap, Address sinks) {
  quire::AttentionArgs args{};
  args.type = dtype(type);
  args.cache_type = dtype(cache_type);
  args.q = at<const char>(q);
  args.q_stride = q_stride;
  args.out = at(out);
  args.cache = at<const char>(cache);
  args.value_offset = value_offset;
  args.num_blocks = num_blocks;
  args.query_start = at<const std::int32_t>(query_start);
  args.seq_lens = at<const std::int32_t>(seq_lens);
  args.block_tables = at<const std::int32_t>(block_tables);
  args.table_width = table_width;
  args.num_seqs = num_seqs;
  args.num_heads = num_heads;
  args.num_kv_heads = num_kv_heads;
  args.head_size = head_size;
  args.block_size = block_size;
  args.scale = scale;
  args.softcap = softcap;
  args.window = window;
  args.sinks = at<const float>(sinks);
  if (recorder) {
    const quire::StepInputs& own = recorder->inputs();
    if (args.query_start != own.query_start || args.seq_lens != own.seq_lens ||
        args.block_tables != own.block_tables) {
      throw std::runtime_error("attention takes sequences that are not the step's own");
    }
  }
  run_or_record("paged_attention", tokens, [args, tokens](const quire::StepInputs* step) {
    quire::AttentionArgs a = args;
    if (step) {
      a.query_start = step->query_start;
      a.seq_lens = step->seq_lens;
      a.block_tables = step->block_tables;
      a.table_width = step->table_width;
      a.num_seqs = step->num_seqs;
    }
    const std::int64_t rows = step ? step->tokens : tokens, end = a.query_start[a.num_seqs];
    if (a.query_start[0] != 0 || end != rows) {
      throw std::out_of_range("query_start goes from " + std::to_string(a.query_start[0]) + " to " +
                              std::to_string(end) + " for " + std::to_string(rows) + " tokens");
    }
    quire::paged_attention(a);
  });
}

void packed_attention(Address q, std::int64_t q_stride, Address k, std::int64_t kv_stride,
                      std::int64_t value_offset, Address out, int type, std::int64_t tokens,
                      Address query_start, int num_seqs, int num_heads, int num_kv_heads, int head_size,
                      float scale, int window) {
  quire::AttentionArgs args{};
  args.type = args.cache_type = dtype(type);
  args.q = at<const char>(q);
  args.q_stride = q_stride;
  args.out = at(out);
  args.cache = at<const char>(k);
  args.value_offset = value_offset;
  args.packed_stride = kv_stride;
  args.query_start = at<const std::int32_t>(query_start);
  args.num_seqs = num_seqs;
  args.num_heads = num_heads;
  args.num_kv_heads = num_kv_heads;
  args.head_size = head_size;
  args.scale = scale;
  args.window = window;
  if (args.query_start[0] != 0 || args.query_start[num_seqs] != tokens) {
    throw std::out_of_range("the sequences go from " + std::to_string(args.query_start[0]) + " to " +
                            std::to_string(args.query_start[num_seqs]) + ", and there are " +
                            std::to_string(tokens) + " tokens");
  }
  if (recorder) throw std::runtime_error("attention in both directions is no part of a recorded step");
  const py::gil_scoped_release released;
  quire::paged_attention(args);
}

void argmax(Address x, std::int64_t rows, std::int64_t columns, Address values, Address indices) {
  quire::argmax(at<const float>(x), rows, columns, at<float>(values), at<std::int64_t>(indices));
}

template <class... Inputs>
void run_program(const quire::Program& program, Inputs... inputs) {
  const quire::StepInputs step = step_inputs(inputs...);
  const py::gil_scoped_release released;
  program.run(step);
}

template <class... Inputs>
py::list profile_program(const quire::Program& program, Inputs... inputs) {
  py::list result;
  program.profile(step_inputs(inputs...), [&](const char* name, double seconds) {
    result.append(py::make_tuple(name, seconds));
  });
  return result;
}

// Defines start_recording, run and profile with the arguments of step_inputs.
template <class Class, class... Inputs>
void define_program(py::module_& m, Class& program, quire::StepInputs (*)(Inputs...)) {
  m.def("start_recording", &start_recording<Inputs...>);
  program.def("run", &run_program<Inputs...>).def("profile", &profile_program<Inputs...>);
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

py::list available_isas() {
  py::list names;
  for (const quire::Isa isa : {quire::Isa::plain, quire::Isa::avx2, quire::Isa::avx2_vnni, quire::Isa::avx512,
                               quire::Isa::avx512_vnni, quire::Isa::avx512_bf16}) {
    if (quire::is_available(isa)) names.append(quire::isa_name(isa));
  }
  return names;
}

const char* isa() { return quire::isa_name(quire::current_isa()); }

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "quire's CPU kernels; quire.kernels.cpu gives them tensors.";
  const auto released = py::call_guard<py::gil_scoped_release>();
  // These run or are recorded, and release the GIL themselves.
  m.def("linear", &linear);
  m.def("quantized_linear", &quantized_linear);
  m.def("read_dense_rows", &read_dense_rows);
  m.def("read_quantized_rows", &read_quantized_rows);
  m.def("rms_norm", &rms_norm);
  m.def("layer_norm", &layer_norm);
  m.def("gelu", &gelu);
  m.def("exact_gelu_and_mul", &exact_gelu_and_mul);
  m.def("silu_and_mul", &silu_and_mul);
  m.def("gelu_and_mul", &gelu_and_mul);
  m.def("rope_and_cache_write", &rope_and_cache_write);
  m.def("paged_attention", &paged_attention);
  py::class_<quire::Program, std::shared_ptr<quire::Program>> program(m, "Program");
  program.def_property_readonly("num_ops", &quire::Program::num_ops);
  define_program(m, program, &step_inputs);
  m.def("stop_recording", &stop_recording);
  m.def("packed_attention", &packed_attention);
  m.def("argmax", &argmax, released);
  m.def("pack_weight", &pack_weight, released);
  m.def("packed_bytes", &packed_bytes);
  m.def("pack_quantized", &pack_quantized, released);
  m.def("quantize_weight", &quantize_weight, released);
  m.def("probe", &quire::probe, released);
  m.def("num_threads", &quire::num_threads);
  m.def("set_num_threads", &quire::set_num_threads, released);
  m.def("cpu_features", &cpu_features);
  m.def("available_isas", &available_isas);
  m.def("isa", &isa);
  m.def("set_isa", &quire::set_isa);
}
