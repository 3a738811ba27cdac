// Primitives in plain C++, for any processor.
#pragma once
#include <cmath>

#include "vector.h"

namespace gemlet::portable {

constexpr const char* kName = "portable";
constexpr int kTileRows = 2, kTilePanels = 1;
constexpr int kPreciseRows = 1;
constexpr int kDenseRows = 2, kDensePanels = 1;
constexpr int kGemmRows = 2;

[[gnu::always_inline]] inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return a * b + c; }
[[gnu::always_inline]] inline f32x16 maximum(f32x16 a, f32x16 b) { return a > b ? a : b; }
[[gnu::always_inline]] inline f32x16 minimum(f32x16 a, f32x16 b) { return a < b ? a : b; }
[[gnu::always_inline]] inline f32x16 absolute(f32x16 a) { return (f32x16)((i32x16)a & 0x7fffffff); }
// What does not fit becomes the lowest integer, as in the processors' own conversions.
inline i32x16 round_to_int(f32x16 a) {
  i32x16 r;
  for (int i = 0; i < 16; i++) r[i] = std::fabs(a[i]) < 0x1p31f ? static_cast<int32_t>(std::nearbyintf(a[i])) : INT32_MIN;
  return r;
}
[[gnu::always_inline]] inline f32x16 to_float(i32x16 a) { return __builtin_convertvector(a, f32x16); }

// Half precision by bit arithmetic: subnormals come out right because the float multiply rescales them.
[[gnu::always_inline]] inline f32x16 load_f16(const void* p) {
  const u32x16 h = __builtin_convertvector(load<u16x16>(p), u32x16);
  const u32x16 sign = (h & 0x8000u) << 16, magnitude = (h & 0x7fffu) << 13;
  const u32x16 finite = (u32x16)((f32x16)magnitude * 0x1p112f);
  const u32x16 special = (h & 0x7c00u) == 0x7c00u ? (magnitude | 0x7f800000u) : finite;
  return (f32x16)(special | sign);
}
// Adding 0.5 units of the target's last place in float arithmetic rounds to nearest even.
inline u16x16 to_f16(f32x16 a) {
  u16x16 out;
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    const float x = a[i];
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    uint32_t half;
    if (bits > 0x7f800000u) half = 0x7e00u;
    else if (bits >= 0x477ff000u) half = 0x7c00u;
    else if (bits < 0x38800000u) {
      float magnitude;
      std::memcpy(&magnitude, &bits, 4);
      magnitude += 0.5f;
      std::memcpy(&bits, &magnitude, 4);
      half = bits - 0x3f000000u;
    } else half = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
    out[i] = static_cast<uint16_t>(sign | half);
  }
  return out;
}
inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* x) {
  uint8_t c[64];
  store(c, codes);
  int32_t sums[16];
  store(sums, acc);
  for (int i = 0; i < 16; i++) sums[i] += c[4 * i] * x[0] + c[4 * i + 1] * x[1] + c[4 * i + 2] * x[2] + c[4 * i + 3] * x[3];
  return load<i32x16>(sums);
}
// The same with 64 different x.
inline i32x16 dot_each(i32x16 acc, u8x64 codes, const int8_t* x) {
  uint8_t c[64];
  store(c, codes);
  int32_t sums[16];
  store(sums, acc);
  for (int i = 0; i < 64; i++) sums[i / 4] += c[i] * x[i];
  return load<i32x16>(sums);
}
[[gnu::always_inline]] inline u32x16 shift_right(u32x16 a, const int64_t* bits) { return a >> static_cast<uint32_t>(*bits); }
inline bool any_above(f32x16 a, float bound) {
  bool found = false;
  for (int i = 0; i < 16; i++) found |= a[i] > bound;
  return found;
}

}  // namespace gemlet::portable
