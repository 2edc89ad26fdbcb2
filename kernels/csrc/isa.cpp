#include "isa.h"

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace quire {
namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

// XCR0: the register state that the operating system saves.
std::uint64_t saved_state() {
  std::uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

bool bit(unsigned value, int index) { return (value >> index) & 1; }

CpuFeatures detect() {
  CpuFeatures f;
  const Registers l1 = cpuid(1, 0);
  if (!bit(l1.ecx, 27)) return f;  // OSXSAVE
  const std::uint64_t state = saved_state();
  const bool ymm = (state & 0x06) == 0x06, zmm = (state & 0xe6) == 0xe6;
  const Registers l7 = cpuid(7, 0), l71 = cpuid(7, 1);
  f.avx2 = ymm && bit(l7.ebx, 5) && bit(l1.ecx, 12) && bit(l1.ecx, 29);
  f.avx_vnni = f.avx2 && bit(l71.eax, 4);
  f.avx512 = f.avx2 && zmm && bit(l7.ebx, 16) && bit(l7.ebx, 17) && bit(l7.ebx, 30) && bit(l7.ebx, 31);
  f.avx512_vnni = f.avx512 && bit(l7.ecx, 11);
  f.avx512_bf16 = f.avx512 && bit(l71.eax, 5);
  return f;
}
#else
CpuFeatures detect() { return {}; }
#endif

constexpr Isa kAll[] = {Isa::plain,  Isa::avx2,        Isa::avx2_vnni,
                        Isa::avx512, Isa::avx512_vnni, Isa::avx512_bf16};

bool has(Isa isa) {
  const CpuFeatures& f = cpu_features();
  switch (isa) {
    case Isa::plain: return true;
    case Isa::avx2: return f.avx2;
    case Isa::avx2_vnni: return f.avx_vnni || f.avx512_vnni;
    case Isa::avx512: return f.avx512;
    case Isa::avx512_vnni: return f.avx512_vnni;
    case Isa::avx512_bf16: return f.avx512_vnni && f.avx512_bf16;
  }
  return false;
}

Isa choose(const std::string& name) {
  if (name.empty()) {
    Isa best = Isa::plain;
    for (const Isa isa : kAll) {
      if (is_available(isa)) best = isa;
    }
    return best;
  }
  std::string known;
  for (const Isa isa : kAll) {
    if (name != isa_name(isa)) {
      known += (known.empty() ? "" : ", ") + std::string(isa_name(isa));
      continue;
    }
    if (!has(isa)) throw std::runtime_error("QUIRE_ISA=" + name + ", but this CPU has no " + name);
    if (!is_compiled(isa)) {
      throw std::runtime_error("QUIRE_ISA=" + name + ", but the compiler that built quire has no " + name);
    }
    return isa;
  }
  throw std::runtime_error("QUIRE_ISA must be one of " + known + ", got '" + name + "'");
}

std::string from_environment() {
  const char* value = std::getenv("QUIRE_ISA");
  return value ? value : "";
}

std::mutex choice_mutex;
std::optional<Isa> choice;

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

bool is_available(Isa isa) { return has(isa) && is_compiled(isa); }

Isa current_isa() {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  if (!choice) choice = choose(from_environment());
  return *choice;
}

void set_isa(const std::string& name) {
  const Isa chosen = choose(name.empty() ? from_environment() : name);
  const std::lock_guard<std::mutex> lock(choice_mutex);
  choice = chosen;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::plain: return "plain";
    case Isa::avx2: return "avx2";
    case Isa::avx2_vnni: return "avx2_vnni";
    case Isa::avx512: return "avx512";
    case Isa::avx512_vnni: return "avx512_vnni";
    case Isa::avx512_bf16: return "avx512_bf16";
  }
  return "";
}

}  // namespace quire
