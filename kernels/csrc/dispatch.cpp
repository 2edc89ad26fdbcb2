#include "isa.h"
#include "kernels.h"

namespace quire {
namespace {

const KernelTable* table_of(Isa isa) {
  switch (isa) {
    case Isa::plain: return plain_kernels();
    case Isa::avx2: return avx2_kernels();
    case Isa::avx2_vnni: return cpu_features().avx_vnni ? avx2_vnni_kernels() : avx2_evex_kernels();
    case Isa::avx512: return avx512_kernels();
    case Isa::avx512_vnni: return avx512_vnni_kernels();
    case Isa::avx512_bf16: return avx512_bf16_kernels();
  }
  return nullptr;
}

}  // namespace

bool is_compiled(Isa isa) { return table_of(isa) != nullptr; }

const KernelTable& kernels() { return *table_of(current_isa()); }

}  // namespace quire
