// The kernels for AVX2 with AVX-VNNI, the int8 dot products of CPUs without AVX512.
#include "kernels.h"
#include "unroll.h"

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

#define QUIRE_TARGET avx2_vnni
#define QUIRE_VNNI _mm256_dpbusd_avx_epi32
#include "simd_avx2.h"
#include "target.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif

const quire::KernelTable* quire::avx2_vnni_kernels() { return &avx2_vnni::kTable; }
#else
const quire::KernelTable* quire::avx2_vnni_kernels() { return nullptr; }
#endif
