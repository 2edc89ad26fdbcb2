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

bool has(Isa isa) {
  const CpuFeatures& f = cpu_features();
  return isa == Isa::plain || (isa == Isa::avx2 ? f.avx2 : f.avx512);
}

Isa parse(const std::string& name) {
  for (const Isa isa : {Isa::plain, Isa::avx2, Isa::avx512}) {
    if (name != isa_name(isa)) continue;
    if (!has(isa)) throw std::runtime_error("QUIRE_ISA=" + name + ", but this CPU has no " + name);
    return isa;
  }
  throw std::runtime_error("QUIRE_ISA must be plain, avx2 or avx512, got '" + name + "'");
}

IsaChoice choose(const std::string& name, bool bf16) {
  const Isa isa = name.empty() ? (has(Isa::avx512) ? Isa::avx512 : has(Isa::avx2) ? Isa::avx2 : Isa::plain)
                               : parse(name);
  return {isa, bf16 && isa == Isa::avx512 && cpu_features().avx512_bf16};
}

std::string from_environment() {
  const char* value = std::getenv("QUIRE_ISA");
  return value ? value : "";
}

std::mutex choice_mutex;
std::optional<IsaChoice> choice;

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures features = detect();
  return features;
}

IsaChoice current_isa() {
  const std::lock_guard<std::mutex> lock(choice_mutex);
  if (!choice) choice = choose(from_environment(), true);
  return *choice;
}

void set_isa(const std::string& name, bool bf16) {
  const IsaChoice chosen = choose(name.empty() ? from_environment() : name, bf16);
  const std::lock_guard<std::mutex> lock(choice_mutex);
  choice = chosen;
}

const char* isa_name(Isa isa) {
  return isa == Isa::plain ? "plain" : isa == Isa::avx2 ? "avx2" : "avx512";
}

}  // namespace quire
