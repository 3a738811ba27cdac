// Primitives: NEON with the dot product of unsigned and signed bytes (a part of I8MM).
#pragma once
#include <arm_neon.h>

#include "vector.h"

namespace gemlet::neon_i8mm {

constexpr const char* kName = "neon_i8mm";

#include "neon.inl"

[[gnu::always_inline]] inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* x) {
  const int8x16_t bytes = four_bytes(x);
  return each_register([&](i32x4 sum, u8x16 c) { return (i32x4)vusdotq_s32((int32x4_t)sum, (uint8x16_t)c, bytes); }, acc, codes);
}
// The same with 64 different x.
[[gnu::always_inline]] inline i32x16 dot_each(i32x16 acc, u8x64 codes, const int8_t* x) {
  return each_register([](i32x4 sum, u8x16 c, u8x16 y) { return (i32x4)vusdotq_s32((int32x4_t)sum, (uint8x16_t)c, (int8x16_t)y); }, acc, codes, load<u8x64>(x));
}
#include "products.inl"

}  // namespace gemlet::neon_i8mm
