// Primitives that every 64-bit Arm processor has; sixteen lanes are four registers. Included inside the namespace of an instruction set.
#define GEMLET_NEON

constexpr int kRegisterBytes = 16;
constexpr int kTileRows = 3, kTilePanels = 1;        // 12 integer and 12 float accumulators of 32 registers
constexpr int kPreciseRows = 2, kPrecisePanels = 1;  // two integer accumulators each
constexpr int kDenseRows = 3, kDensePanels = 2;
constexpr int kGemmRows = 6, kGemmVectors = 1;

#include "lanes.inl"

using f32x4 = Vector<float, 4>;
using i32x4 = Vector<int32_t, 4>;
using u16x8 = Vector<uint16_t, 8>;
using u8x16 = Vector<uint8_t, 16>;

[[gnu::always_inline]] inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return each_register([](f32x4 x, f32x4 y, f32x4 z) { return (f32x4)vfmaq_f32((float32x4_t)z, (float32x4_t)x, (float32x4_t)y); }, a, b, c);
}
// Not by the processor's own maximum and minimum, which give back what is no number: here it gives way to b.
[[gnu::always_inline]] inline f32x16 maximum(f32x16 a, f32x16 b) { return select(a > b, a, b); }
[[gnu::always_inline]] inline f32x16 minimum(f32x16 a, f32x16 b) { return select(a < b, a, b); }
[[gnu::always_inline]] inline f32x16 absolute(f32x16 a) {
  return each_register([](f32x4 x) { return (f32x4)vabsq_f32((float32x4_t)x); }, a);
}
// What does not fit becomes the nearest integer that does, and what is no number zero.
[[gnu::always_inline]] inline i32x16 round_to_int(f32x16 a) {
  return each_register([](f32x4 x) { return (i32x4)vcvtnq_s32_f32((float32x4_t)x); }, a);
}
[[gnu::always_inline]] inline f32x16 to_float(i32x16 a) {
  return each_register([](i32x4 x) { return (f32x4)vcvtq_f32_s32((int32x4_t)x); }, a);
}
[[gnu::always_inline]] inline f32x16 load_f16(const void* p) {
  const auto wide = [](u16x8 x) {
    const float16x8_t h = vreinterpretq_f16_u16((uint16x8_t)x);
    return Vector<float, 8>{(f32x4)vcvt_f32_f16(vget_low_f16(h)), (f32x4)vcvt_high_f32_f16(h)};
  };
  const u16x16 h = load<u16x16>(p);
  return {wide(h.low), wide(h.high)};
}
[[gnu::always_inline]] inline u16x16 to_f16(f32x16 a) {
  const auto narrow = [](Vector<float, 8> x) {
    return (u16x8)vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32((float32x4_t)x.low), (float32x4_t)x.high));
  };
  return {narrow(a.low), narrow(a.high)};
}
[[gnu::always_inline]] inline u32x16 widen(u16x16 a) {
  using H = decltype(u32x16::low);
  using Q = decltype(H::low);
  const auto wide = [](u16x8 x) { return H{(Q)vmovl_u16(vget_low_u16((uint16x8_t)x)), (Q)vmovl_high_u16((uint16x8_t)x)}; };
  return {wide(a.low), wide(a.high)};
}
// The lowest byte of each lane, which holds a number that fits one.
[[gnu::always_inline]] inline void store_bytes(int8_t* to, i32x16 v) {
  const auto words = [](i32x8 x) { return vmovn_high_s32(vmovn_s32((int32x4_t)x.low), (int32x4_t)x.high); };
  vst1q_s8(to, vmovn_high_s16(vmovn_s16(words(v.low)), words(v.high)));
}
[[gnu::always_inline]] inline u32x16 shift_right(u32x16 a, const int64_t* bits) { return a >> static_cast<uint32_t>(*bits); }
[[gnu::always_inline]] inline bool any_above(f32x16 a, float bound) {
  const auto above = a > splat(bound);
  const auto half = above.low | above.high;
  return vmaxvq_u32((uint32x4_t)(half.low | half.high)) != 0;
}

[[gnu::always_inline]] inline int8x16_t four_bytes(const int8_t* x) {
  int32_t word;
  std::memcpy(&word, x, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}
