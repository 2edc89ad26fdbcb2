// Types shared by every file of the extension. Nothing here depends on the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

// The upper half of an IEEE fp32.
struct Bf16 {
  std::uint16_t bits;
};

// int8 is of KV caches alone.
enum class DType : int { float32 = 0, bfloat16 = 1, int8 = 2 };

// The dtypes of quantised weights' scales; the first two are numbered as in DType.
enum class ScaleType : int { float32 = 0, bfloat16 = 1, float16 = 2 };

inline std::size_t size_of(ScaleType type) { return type == ScaleType::float32 ? 4 : 2; }

inline float to_scalar(float x) { return x; }
inline float to_scalar(Bf16 x) {
  const std::uint32_t bits = std::uint32_t{x.bits} << 16;
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// Rounded to nearest even; NaN stays NaN.
inline Bf16 to_bf16(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  bits = nan ? bits | 0x400000u : bits + (bits >> 16 & 1u) + 0x7fffu;
  return {static_cast<std::uint16_t>(bits >> 16)};
}

// An IEEE fp16 from and to fp32, rounded to nearest even, for where no instruction does it.
inline float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7fffu;
  if (magnitude < 0x0400u) {  // zero and subnormals: multiples of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  const std::uint32_t exponent = magnitude < 0x7c00u ? 0x38000000u : 0x70000000u;
  const std::uint32_t bits = sign | ((magnitude << 13) + exponent);
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

inline std::uint16_t float_to_half(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {  // rounds past 65504
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 leaves multiples of 2^-24 in the low bits
    float absolute;
    __builtin_memcpy(&absolute, &magnitude, 4);
    const float shifted = absolute + 0.5f;
    __builtin_memcpy(&half, &shifted, 4);
    half -= 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

inline std::size_t size_of(DType type) {
  return type == DType::float32 ? 4 : type == DType::bfloat16 ? 2 : 1;
}

// A cached head in int8 is followed by its scale, an fp32.
constexpr int kCacheScaleBytes = 4;

// Elements from one head of a KV cache to the next.
inline std::int64_t cache_row(DType type, int head_size) {
  return head_size + (type == DType::int8 ? kCacheScaleBytes : 0);
}

// Columns that lie side by side in a packed weight, and keys in a packed tile of the KV cache.
constexpr int kPanel = 32;

// Floats in one vector of every instruction set: one 512-bit register, two of 256 or four of 128 bits.
// One width for all means one packed layout for all.
constexpr int kLanes = 16;

// Keys after which attention starts a new partial softmax. It is a constant of the arithmetic, not a
// tuning knob: changing it changes results in the last bit.
constexpr int kKeyChunk = 256;

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace quire
