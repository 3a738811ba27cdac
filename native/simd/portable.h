// Primitives in plain C++, for any processor.
#pragma once
#include <cmath>

#include "vector.h"

namespace gemlet::portable {

constexpr const char* kName = "portable";
constexpr int kRegisterBytes = 16;
constexpr int kTileRows = 2, kTilePanels = 1;
constexpr int kPreciseRows = 1, kPrecisePanels = 1;
constexpr int kDenseRows = 2, kDensePanels = 1;
constexpr int kGemmRows = 2, kGemmVectors = 1;

#include "lanes.inl"

[[gnu::always_inline]] inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return a * b + c; }
[[gnu::always_inline]] inline f32x16 maximum(f32x16 a, f32x16 b) { return select(a > b, a, b); }
[[gnu::always_inline]] inline f32x16 minimum(f32x16 a, f32x16 b) { return select(a < b, a, b); }
[[gnu::always_inline]] inline f32x16 absolute(f32x16 a) { return (f32x16)((i32x16)a & 0x7fffffff); }
// What does not fit becomes the lowest integer, as in the processors' own conversions.
inline i32x16 round_to_int(f32x16 a) {
  float x[16];
  store(x, a);
  int32_t r[16];
  for (int i = 0; i < 16; i++) r[i] = std::fabs(x[i]) < 0x1p31f ? static_cast<int32_t>(std::nearbyintf(x[i])) : INT32_MIN;
  return load<i32x16>(r);
}
[[gnu::always_inline]] inline f32x16 to_float(i32x16 a) {
  return each_register([](Vector<int32_t, 4> x) { return __builtin_convertvector(x, Vector<float, 4>); }, a);
}
[[gnu::always_inline]] inline u32x16 widen(u16x16 a) {
  using H = decltype(u32x16::low);
  const auto wide = [](Vector<uint16_t, 8> x) {
    using Q = decltype(H::low);
    return H{__builtin_convertvector(__builtin_shufflevector(x, x, 0, 1, 2, 3), Q), __builtin_convertvector(__builtin_shufflevector(x, x, 4, 5, 6, 7), Q)};
  };
  return {wide(a.low), wide(a.high)};
}
// The lowest byte of each lane, which holds a number that fits one.
inline void store_bytes(int8_t* to, i32x16 v) {
  int32_t lanes[16];
  store(lanes, v);
  for (int i = 0; i < 16; i++) to[i] = static_cast<int8_t>(lanes[i]);
}

// Half precision by bit arithmetic: subnormals come out right because the float multiply rescales them.
[[gnu::always_inline]] inline f32x16 load_f16(const void* p) {
  const u32x16 h = widen(load<u16x16>(p));
  const u32x16 sign = (h & 0x8000u) << 16, magnitude = (h & 0x7fffu) << 13;
  const u32x16 finite = (u32x16)((f32x16)magnitude * 0x1p112f);
  const u32x16 special = select((h & 0x7c00u) == splat_to<u32x16>(0x7c00u), magnitude | 0x7f800000u, finite);
  return (f32x16)(special | sign);
}
// Adding 0.5 units of the target's last place in float arithmetic rounds to nearest even.
inline u16x16 to_f16(f32x16 a) {
  float lanes[16];
  store(lanes, a);
  uint16_t out[16];
  for (int i = 0; i < 16; i++) {
    uint32_t bits;
    const float x = lanes[i];
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
  return load<u16x16>(out);
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
#include "products.inl"
[[gnu::always_inline]] inline u32x16 shift_right(u32x16 a, const int64_t* bits) { return a >> static_cast<uint32_t>(*bits); }
inline bool any_above(f32x16 a, float bound) {
  float lanes[16];
  store(lanes, a);
  bool found = false;
  for (float x : lanes) found |= x > bound;
  return found;
}

}  // namespace gemlet::portable
