// Primitives: NEON with the dot product of signed bytes.
#pragma once
#include <arm_neon.h>

#include "vector.h"

namespace gemlet::neon_dotprod {

constexpr const char* kName = "neon_dotprod";

#include "neon.inl"

[[gnu::always_inline]] inline i32x16 dot4_signed(i32x16 acc, u8x64 codes, int8x16_t x) {
  return each_register([&](i32x4 sum, u8x16 c) { return (i32x4)vdotq_s32((int32x4_t)sum, (int8x16_t)c, x); }, acc, codes);
}
// With the upper half's bit turned, an unsigned code is a signed one that is 128 less.
[[gnu::always_inline]] inline u8x64 to_signed(u8x64 codes) { return codes ^ uint8_t{128}; }

// -128 times the sums of fours of x.
[[gnu::always_inline]] inline i32x4 missing(int8x16_t x) { return (i32x4)vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(-128), x); }
[[gnu::always_inline]] inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* x) {
  const i32x4 less = missing(four_bytes(x));
  return each_register([&](i32x4 sum) { return sum - less; }, dot4_signed(acc, to_signed(codes), four_bytes(x)));
}
// The same with 64 different x.
[[gnu::always_inline]] inline i32x16 dot_each(i32x16 acc, u8x64 codes, const int8_t* x) {
  return each_register([](i32x4 sum, u8x16 c, u8x16 y) {
    return (i32x4)vdotq_s32((int32x4_t)sum, (int8x16_t)c, (int8x16_t)y) - missing((int8x16_t)y);
  }, acc, to_signed(codes), load<u8x64>(x));
}

// Sums of a block need no such care: they take the difference off with the zero point.
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
