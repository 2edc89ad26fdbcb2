// Which instruction sets this CPU has, and which one the kernels use.
#pragma once

#include <string>

namespace quire {

// In ascending order of what one prefers.
enum class Isa {
  plain,
  avx2,         // AVX2, FMA and F16C
  avx2_vnni,    // with int8 dot products
  avx512,       // AVX512 F, BW, VL and DQ
  avx512_vnni,  // with int8 dot products
  avx512_bf16,  // with int8 and bf16 dot products
};

struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA and F16C
  bool avx_vnni = false;     // int8 dot products in 256-bit registers
  bool avx512 = false;       // AVX512 F, BW, VL and DQ
  bool avx512_vnni = false;  // int8 dot products
  bool avx512_bf16 = false;  // bf16 dot products
};

// What the CPU has and the operating system saves on a context switch.
const CpuFeatures& cpu_features();

// Whether the compiler could make the kernels of an instruction set.
bool is_compiled(Isa isa);

// Whether this CPU can run it, and the kernels for it were compiled.
bool is_available(Isa isa);

// The choice in force. The first call takes QUIRE_ISA, else the best there is. Throws std::runtime_error if
// QUIRE_ISA names something unknown or unavailable.
Isa current_isa();

// Forces a choice by name, as QUIRE_ISA does; an empty name returns to QUIRE_ISA. Must not run while a
// kernel does.
void set_isa(const std::string& name);

const char* isa_name(Isa isa);

}  // namespace quire
