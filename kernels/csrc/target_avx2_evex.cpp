// The kernels for AVX2 as target_avx2_vnni.cpp has them, with the dot products as AVX512 encodes them: a CPU that has
// those but no AVX-VNNI can then test the same code.
#include "kernels.h"
#include "unroll.h"

#if defined(__x86_64__)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512vl,avx512vnni"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512vl,avx512vnni")
#endif

#define QUIRE_TARGET avx2_evex
#define QUIRE_VNNI _mm256_dpbusd_epi32
#include "simd_avx2.h"
#include "target.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

const quire::KernelTable* quire::avx2_evex_kernels() { return &avx2_evex::kTable; }
#else
const quire::KernelTable* quire::avx2_evex_kernels() { return nullptr; }
#endif
