#include "isa.h"
#include "kernels.h"

namespace quire {

const KernelTable& kernels() {
  const IsaChoice choice = current_isa();
  if (choice.isa == Isa::avx512) return choice.bf16 ? *avx512_bf16_kernels() : *avx512_kernels();
  return choice.isa == Isa::avx2 ? *avx2_kernels() : *plain_kernels();
}

}  // namespace quire
