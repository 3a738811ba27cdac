// Primitives: AVX2, FMA and F16C; sixteen lanes are two registers.
#pragma once
#include <immintrin.h>

#include "vector.h"

namespace gemlet::avx2 {

constexpr const char* kName = "avx2";
constexpr int kTileRows = 2, kTilePanels = 1;
constexpr int kPreciseRows = 1;
constexpr int kDenseRows = 3, kDensePanels = 1;
constexpr int kGemmRows = 3;

struct Halves {
  __m256i low, high;
};
template <class V>
[[gnu::always_inline]] inline Halves split(const V& v) {
  static_assert(sizeof v == 64);
  Halves h;
  std::memcpy(&h.low, &v, 32);
  std::memcpy(&h.high, reinterpret_cast<const char*>(&v) + 32, 32);
  return h;
}
template <class V>
[[gnu::always_inline]] inline V join(__m256i low, __m256i high) {
  V v;
  std::memcpy(&v, &low, 32);
  std::memcpy(reinterpret_cast<char*>(&v) + 32, &high, 32);
  return v;
}
[[gnu::always_inline]] inline __m256 ps(__m256i v) { return _mm256_castsi256_ps(v); }
[[gnu::always_inline]] inline __m256i si(__m256 v) { return _mm256_castps_si256(v); }

[[gnu::always_inline]] inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
  Halves x = split(a), y = split(b), z = split(c);
  return join<f32x16>(si(_mm256_fmadd_ps(ps(x.low), ps(y.low), ps(z.low))), si(_mm256_fmadd_ps(ps(x.high), ps(y.high), ps(z.high))));
}
[[gnu::always_inline]] inline f32x16 maximum(f32x16 a, f32x16 b) {
  Halves x = split(a), y = split(b);
  return join<f32x16>(si(_mm256_max_ps(ps(x.low), ps(y.low))), si(_mm256_max_ps(ps(x.high), ps(y.high))));
}
[[gnu::always_inline]] inline f32x16 minimum(f32x16 a, f32x16 b) {
  Halves x = split(a), y = split(b);
  return join<f32x16>(si(_mm256_min_ps(ps(x.low), ps(y.low))), si(_mm256_min_ps(ps(x.high), ps(y.high))));
}
[[gnu::always_inline]] inline f32x16 absolute(f32x16 a) { return (f32x16)((i32x16)a & 0x7fffffff); }
[[gnu::always_inline]] inline i32x16 round_to_int(f32x16 a) {
  Halves x = split(a);
  return join<i32x16>(_mm256_cvtps_epi32(ps(x.low)), _mm256_cvtps_epi32(ps(x.high)));
}
[[gnu::always_inline]] inline f32x16 to_float(i32x16 a) {
  Halves x = split(a);
  return join<f32x16>(si(_mm256_cvtepi32_ps(x.low)), si(_mm256_cvtepi32_ps(x.high)));
}
[[gnu::always_inline]] inline f32x16 load_f16(const void* p) {
  const __m128i* h = static_cast<const __m128i*>(p);
  return join<f32x16>(si(_mm256_cvtph_ps(_mm_loadu_si128(h))), si(_mm256_cvtph_ps(_mm_loadu_si128(h + 1))));
}
[[gnu::always_inline]] inline u16x16 to_f16(f32x16 a) {
  Halves x = split(a);
  __m128i h[2] = {_mm256_cvtps_ph(ps(x.low), _MM_FROUND_TO_NEAREST_INT), _mm256_cvtps_ph(ps(x.high), _MM_FROUND_TO_NEAREST_INT)};
  return load<u16x16>(h);
}
// Products of unsigned and signed bytes can leave 16 bits in pairs, so even and odd bytes are widened and multiplied apart.
[[gnu::always_inline]] inline __m256i dot_half(__m256i sum, __m256i codes, __m256i x) {
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), odd = _mm256_srai_epi16(x, 8);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0xff)), even));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), odd));
}
[[gnu::always_inline]] inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* x) {
  int32_t word;
  std::memcpy(&word, x, 4);
  const __m256i all = _mm256_set1_epi32(word);
  Halves c = split(codes), a = split(acc);
  return join<i32x16>(dot_half(a.low, c.low, all), dot_half(a.high, c.high, all));
}
// The same with 64 different x.
[[gnu::always_inline]] inline i32x16 dot_each(i32x16 acc, u8x64 codes, const int8_t* x) {
  Halves c = split(codes), a = split(acc), xs = split(load<u8x64>(x));
  return join<i32x16>(dot_half(a.low, c.low, xs.low), dot_half(a.high, c.high, xs.high));
}
[[gnu::always_inline]] inline u32x16 shift_right(u32x16 a, const int64_t* bits) {
  const __m128i count = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bits));
  Halves x = split(a);
  return join<u32x16>(_mm256_srl_epi32(x.low, count), _mm256_srl_epi32(x.high, count));
}
[[gnu::always_inline]] inline bool any_above(f32x16 a, float bound) {
  Halves x = split(a);
  const __m256 limit = _mm256_set1_ps(bound);
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(ps(x.low), limit, _CMP_GT_OQ), _mm256_cmp_ps(ps(x.high), limit, _CMP_GT_OQ))) != 0;
}

}  // namespace gemlet::avx2
