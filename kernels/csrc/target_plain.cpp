// The kernels in plain C++, for any CPU.
#include "kernels.h"
#include "unroll.h"

#define QUIRE_TARGET plain
#include "simd_plain.h"
#include "target.h"

const quire::KernelTable* quire::plain_kernels() { return &plain::kTable; }
