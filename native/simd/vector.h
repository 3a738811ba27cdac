// Sixteen lanes of float or int32 as compiler vectors: one source for every instruction set.
#pragma once
#include <cstdint>
#include <cstring>

namespace gemlet {

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
using i32x8 = int32_t __attribute__((vector_size(32)));
using i8x16 = int8_t __attribute__((vector_size(16)));
using u8x64 = uint8_t __attribute__((vector_size(64)));
using u16x16 = uint16_t __attribute__((vector_size(32)));
using u32x16 = uint32_t __attribute__((vector_size(64)));

template <class V>
[[gnu::always_inline]] inline V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
[[gnu::always_inline]] inline void store(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

// Written out: adding to zero, the shorter form, is an instruction of its own.
[[gnu::always_inline]] inline f32x16 splat(float x) { return f32x16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }
[[gnu::always_inline]] inline i32x16 splat(int32_t x) { return i32x16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

// Sum and maximum over lanes, always in the same tree: halves, quarters, eighths, pairs.
template <class V>
[[gnu::always_inline]] inline V swap_halves(V v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
}
template <class V>
[[gnu::always_inline]] inline V swap_quarters(V v) {
  return __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
}
template <class V>
[[gnu::always_inline]] inline V swap_eighths(V v) {
  return __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
}
template <class V>
[[gnu::always_inline]] inline V swap_pairs(V v) {
  return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
}

template <class V>
[[gnu::always_inline]] inline auto sum_lanes(V v) {
  v += swap_halves(v);
  v += swap_quarters(v);
  v += swap_eighths(v);
  v += swap_pairs(v);
  return v[0];
}

// The sums of two vectors' lanes, at the cost of one.
struct TwoSums {
  int32_t a, b;
};
[[gnu::always_inline]] inline TwoSums sum_lanes(i32x16 a, i32x16 b) {
  i32x16 v = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
             __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  v += swap_quarters(v);
  v += swap_eighths(v);
  v += swap_pairs(v);
  return {v[0], v[8]};
}

template <class V>
[[gnu::always_inline]] inline V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
[[gnu::always_inline]] inline V smaller(V a, V b) {
  return a < b ? a : b;
}

// The maxima of each four neighbours of two vectors.
[[gnu::always_inline]] inline i32x8 max_groups(i32x16 a, i32x16 b) {
  const i32x16 pairs = larger(__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                              __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
  return larger(__builtin_shufflevector(pairs, pairs, 0, 2, 4, 6, 8, 10, 12, 14), __builtin_shufflevector(pairs, pairs, 1, 3, 5, 7, 9, 11, 13, 15));
}

[[gnu::always_inline]] inline int32_t max_lanes(i32x8 v) {
  v = larger(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = larger(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  return larger(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6))[0];
}
[[gnu::always_inline]] inline float max_lanes(f32x16 v) {
  v = larger(v, swap_halves(v));
  v = larger(v, swap_quarters(v));
  v = larger(v, swap_eighths(v));
  return larger(v, swap_pairs(v))[0];
}

}  // namespace gemlet
