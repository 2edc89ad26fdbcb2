// The kernels for AVX512 F, BW, VL and DQ.
#include "kernels.h"
#include "unroll.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
#endif

#define QUIRE_TARGET avx512
#include "simd_avx512.h"
#include "target.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

const quire::KernelTable* quire::avx512_kernels() { return &avx512::kTable; }
#else
const quire::KernelTable* quire::avx512_kernels() { return nullptr; }
#endif
