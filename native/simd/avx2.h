// Primitives: AVX2, FMA and F16C; sixteen lanes are two registers.
#pragma once
#include <immintrin.h>

#include "vector.h"

namespace gemlet::avx2 {

constexpr const char* kName = "avx2";
constexpr int kRegisterBytes = 32;
constexpr int kTileRows = 3, kTilePanels = 1;
constexpr int kPreciseRows = 1, kPrecisePanels = 1;
constexpr int kDenseRows = 3, kDensePanels = 2;
constexpr int kGemmRows = 6, kGemmVectors = 1;

#include "lanes.inl"

using f32x8 = Vector<float, 8>;
using i16x32 = Vector<int16_t, 32>;
using i16x16 = Vector<int16_t, 16>;
using u8x32 = Vector<uint8_t, 32>;

[[gnu::always_inline]] inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  return each_register([](f32x8 x, f32x8 y, f32x8 z) { return (f32x8)_mm256_fmadd_ps(x, y, z); }, a, b, c);
}
[[gnu::always_inline]] inline f32x16 maximum(f32x16 a, f32x16 b) {
  return each_register([](f32x8 x, f32x8 y) { return (f32x8)_mm256_max_ps(x, y); }, a, b);
}
[[gnu::always_inline]] inline f32x16 minimum(f32x16 a, f32x16 b) {
  return each_register([](f32x8 x, f32x8 y) { return (f32x8)_mm256_min_ps(x, y); }, a, b);
}
[[gnu::always_inline]] inline f32x16 absolute(f32x16 a) { return (f32x16)((i32x16)a & 0x7fffffff); }
[[gnu::always_inline]] inline i32x16 round_to_int(f32x16 a) {
  return each_register([](f32x8 x) { return (i32x8)_mm256_cvtps_epi32(x); }, a);
}
[[gnu::always_inline]] inline f32x16 to_float(i32x16 a) {
  return each_register([](i32x8 x) { return (f32x8)_mm256_cvtepi32_ps((__m256i)x); }, a);
}
[[gnu::always_inline]] inline f32x16 load_f16(const void* p) {
  const __m128i* h = static_cast<const __m128i*>(p);
  return {(f32x8)_mm256_cvtph_ps(_mm_loadu_si128(h)), (f32x8)_mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
[[gnu::always_inline]] inline u16x16 to_f16(f32x16 a) {
  return (u16x16)_mm256_set_m128i(_mm256_cvtps_ph(a.high, _MM_FROUND_TO_NEAREST_INT), _mm256_cvtps_ph(a.low, _MM_FROUND_TO_NEAREST_INT));
}
[[gnu::always_inline]] inline u32x16 widen(u16x16 a) {
  using H = decltype(u32x16::low);
  return {(H)_mm256_cvtepu16_epi32(_mm256_castsi256_si128((__m256i)a)), (H)_mm256_cvtepu16_epi32(_mm256_extracti128_si256((__m256i)a, 1))};
}
// The lowest byte of each lane, which holds a number that fits one.
[[gnu::always_inline]] inline void store_bytes(int8_t* to, i32x16 v) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)v.low, (__m256i)v.high), 0b11011000);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

[[gnu::always_inline]] inline __m256i four_bytes(const int8_t* x) {
  int32_t word;
  std::memcpy(&word, x, 4);
  return _mm256_set1_epi32(word);
}
// Products of unsigned and signed bytes can leave 16 bits in pairs, so even and odd bytes are widened and multiplied apart.
struct WideBytes {
  __m256i even, odd;
};
[[gnu::always_inline]] inline WideBytes widen_bytes(__m256i x) { return {_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_srai_epi16(x, 8)}; }
[[gnu::always_inline]] inline i32x8 dot_register(i32x8 sum, u8x32 codes, const WideBytes& x) {
  sum += (i32x8)_mm256_madd_epi16(_mm256_and_si256((__m256i)codes, _mm256_set1_epi16(0xff)), x.even);
  return sum + (i32x8)_mm256_madd_epi16(_mm256_srli_epi16((__m256i)codes, 8), x.odd);
}
[[gnu::always_inline]] inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* x) {
  const WideBytes all = widen_bytes(four_bytes(x));
  return each_register([&](i32x8 sum, u8x32 c) { return dot_register(sum, c, all); }, acc, codes);
}
// The same with 64 different x.
[[gnu::always_inline]] inline i32x16 dot_each(i32x16 acc, u8x64 codes, const int8_t* x) {
  return each_register([](i32x8 sum, u8x32 c, u8x32 y) { return dot_register(sum, c, widen_bytes((__m256i)y)); }, acc, codes, load<u8x64>(x));
}

constexpr int kCodeOrigin = 0;

template <bool Nibble>
struct Products {
  i32x16 sum;

  [[gnu::always_inline]] void add(u8x64 codes, const int8_t* x) { sum = dot4(sum, codes, x); }
  [[gnu::always_inline]] void add_spare(u8x64 codes, const int8_t* x) { add(codes, x); }
  [[gnu::always_inline]] i32x16 total() const { return sum; }
};
// Pairs of products of a byte and a code of up to 15 fit 16 bits, and so do the sums of the eight groups of a block: 8 * 2 * 15 * 128 < 2^15.
template <>
struct Products<true> {
  i32x16 sum;
  i16x32 pairs{};

  [[gnu::always_inline]] void add(u8x64 codes, const int8_t* x) { pairs += multiply(codes, x); }
  [[gnu::always_inline]] void add_spare(u8x64 codes, const int8_t* x) { sum += join(multiply(codes, x)); }
  [[gnu::always_inline]] i32x16 total() const { return sum + join(pairs); }

 private:
  [[gnu::always_inline]] static i16x32 multiply(u8x64 codes, const int8_t* x) {
    const __m256i bytes = four_bytes(x);
    return each_register([&](u8x32 c) { return (i16x16)_mm256_maddubs_epi16((__m256i)c, bytes); }, codes);
  }
  [[gnu::always_inline]] static i32x16 join(i16x32 v) {
    return each_register([](i16x16 x) { return (i32x8)_mm256_madd_epi16((__m256i)x, _mm256_set1_epi16(1)); }, v);
  }
};

[[gnu::always_inline]] inline u32x16 shift_right(u32x16 a, const int64_t* bits) {
  const __m128i count = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bits));
  using H = decltype(u32x16::low);
  return each_register([&](H x) { return (H)_mm256_srl_epi32((__m256i)x, count); }, a);
}
[[gnu::always_inline]] inline bool any_above(f32x16 a, float bound) {
  const __m256 limit = _mm256_set1_ps(bound);
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(a.low, limit, _CMP_GT_OQ), _mm256_cmp_ps(a.high, limit, _CMP_GT_OQ))) != 0;
}

}  // namespace gemlet::avx2
