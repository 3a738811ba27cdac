// Primitives: AVX-512 F, BW, VL, DQ and VNNI.
#pragma once
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // some compilers see one in their own header
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "vector.h"

namespace gemlet::avx512 {

constexpr const char* kName = "avx512";
constexpr int kRegisterBytes = 64;
constexpr int kTileRows = 6, kTilePanels = 2;        // 12 integer and 12 float accumulators of 32 registers
constexpr int kPreciseRows = 6, kPrecisePanels = 1;     // two integer accumulators each: the head is read from memory, once
constexpr int kDenseRows = 6, kDensePanels = 4;
constexpr int kGemmRows = 6, kGemmVectors = 4;

#include "lanes.inl"

[[gnu::always_inline]] inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) { return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
[[gnu::always_inline]] inline f32x16 maximum(f32x16 a, f32x16 b) { return (f32x16)_mm512_max_ps((__m512)a, (__m512)b); }
[[gnu::always_inline]] inline f32x16 minimum(f32x16 a, f32x16 b) { return (f32x16)_mm512_min_ps((__m512)a, (__m512)b); }
[[gnu::always_inline]] inline f32x16 absolute(f32x16 a) { return (f32x16)_mm512_abs_ps((__m512)a); }
[[gnu::always_inline]] inline i32x16 round_to_int(f32x16 a) { return (i32x16)_mm512_cvtps_epi32((__m512)a); }
[[gnu::always_inline]] inline f32x16 to_float(i32x16 a) { return (f32x16)_mm512_cvtepi32_ps((__m512i)a); }
[[gnu::always_inline]] inline f32x16 load_f16(const void* p) { return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
[[gnu::always_inline]] inline u16x16 to_f16(f32x16 a) { return (u16x16)_mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
[[gnu::always_inline]] inline u32x16 widen(u16x16 a) { return __builtin_convertvector(a, u32x16); }
// The lowest byte of each lane, which holds a number that fits one.
[[gnu::always_inline]] inline void store_bytes(int8_t* to, i32x16 v) { store(to, __builtin_convertvector(v, Vector<int8_t, 16>)); }
// acc[lane] += sum over j of codes[4 * lane + j] * x[j], exactly.
[[gnu::always_inline]] inline i32x16 dot4(i32x16 acc, u8x64 codes, const int8_t* x) {
  int32_t word;
  std::memcpy(&word, x, 4);
  return (i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)codes, _mm512_set1_epi32(word));
}
// The same with 64 different x.
[[gnu::always_inline]] inline i32x16 dot_each(i32x16 acc, u8x64 codes, const int8_t* x) {
  return (i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)codes, _mm512_loadu_si512(x));
}
#include "products.inl"
// By a vector of counts, not by one count: that is one instruction here instead of two.
[[gnu::always_inline]] inline u32x16 shift_right(u32x16 a, const int64_t* bits) {
  return (u32x16)_mm512_srlv_epi32((__m512i)a, _mm512_set1_epi32(static_cast<int>(*bits)));
}
[[gnu::always_inline]] inline bool any_above(f32x16 a, float bound) { return _mm512_cmp_ps_mask((__m512)a, _mm512_set1_ps(bound), _CMP_GT_OQ) != 0; }

}  // namespace gemlet::avx512
