// Which instruction sets this CPU has, and which one the kernels use.
#pragma once

#include <string>

namespace quire {

enum class Isa { plain, avx2, avx512 };

struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA and F16C
  bool avx_vnni = false;     // int8 dot products in 256-bit registers
  bool avx512 = false;       // AVX512 F, BW, VL and DQ
  bool avx512_vnni = false;  // int8 dot products
  bool avx512_bf16 = false;  // bf16 dot products
};

// What the CPU has and the operating system saves on a context switch.
const CpuFeatures& cpu_features();

struct IsaChoice {
  Isa isa;
  bool bf16;  // whether avx512 uses bf16 dot products
};

// The choice in force. The first call takes QUIRE_ISA (plain, avx2 or avx512), else the best there is.
// Throws std::runtime_error if QUIRE_ISA names something unknown or something this CPU lacks.
IsaChoice current_isa();

// Forces a choice, as QUIRE_ISA does; `bf16 = false` leaves bf16 dot products out, for tests. An empty
// name returns to QUIRE_ISA. Must not run while a kernel does.
void set_isa(const std::string& name, bool bf16);

const char* isa_name(Isa isa);

}  // namespace quire
