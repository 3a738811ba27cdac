// Primitives: NEON with the dot product of signed bytes.
#pragma once
#include <arm_neon.h>

#include "vector.h"

namespace gemlet::neon_dotprod {

constexpr const char* kName = "neon_dotprod";

#include "neon.inl"

[[gnu::always_inline]] inline i32x16 dot4_signed(i32x16 acc, u8x64 codes, int8x16_t x) {
  return each_register([&](i32x4 sum, u8x16 c) { return (i32x4)vdotq_s32((int32x4_t)sum, vreinterpretq_s8_u8((uint8x16_t)c), x); }, acc, codes);
}
// With the upper half's bit turned, an unsigned code is a signed one that is 128 less.
[[gnu::always_inline]] inline u8x64 to_signed(u8x64 codes) { return codes ^ uint8_t{128}; }

constexpr int kCodeOrigin = 128;

// Codes of up to 15 are the same with a sign.
template <bool Nibble>
struct Products {
  i32x16 sum;

  [[gnu::always_inline]] void add(u8x64 codes, const int8_t* x) { sum = dot4_signed(sum, Nibble ? codes : to_signed(codes), four_bytes(x)); }
  [[gnu::always_inline]] void add_spare(u8x64 codes, const int8_t* x) { add(codes, x); }
  [[gnu::always_inline]] i32x16 total() const { return sum; }
};

}  // namespace gemlet::neon_dotprod
