// The kernels for AVX2 with FMA and F16C.
#include "kernels.h"
#include "unroll.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define QUIRE_TARGET avx2
#include "simd_avx2.h"
#include "target.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

const quire::KernelTable* quire::avx2_kernels() { return &avx2::kTable; }
#else
const quire::KernelTable* quire::avx2_kernels() { return nullptr; }
#endif
