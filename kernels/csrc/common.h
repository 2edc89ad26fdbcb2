// Types shared by every file of the extension. Nothing here depends on the instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace quire {

// The upper half of an IEEE fp32.
struct Bf16 {
  std::uint16_t bits;
};

enum class DType : int { float32 = 0, bfloat16 = 1 };

inline std::size_t size_of(DType type) { return type == DType::float32 ? 4 : 2; }

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
