// Sixteen lanes of float or int32 as compiler vectors: one source for every instruction set.
#pragma once
#include <cstdint>
#include <cstring>

namespace gemlet {

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
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

[[gnu::always_inline]] inline f32x16 splat(float x) { return f32x16{} + x; }

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

template <class V>
[[gnu::always_inline]] inline V larger(V a, V b) {
  return a > b ? a : b;
}
template <class V>
[[gnu::always_inline]] inline V smaller(V a, V b) {
  return a < b ? a : b;
}

// Every lane becomes the maximum of its group of four.
template <class V>
[[gnu::always_inline]] inline V max_groups(V v) {
  v = larger(v, swap_eighths(v));
  return larger(v, swap_pairs(v));
}

// The maximum over lanes that are already equal within groups of four.
template <class V>
[[gnu::always_inline]] inline auto max_of_groups(V v) {
  v = larger(v, swap_halves(v));
  return larger(v, swap_quarters(v))[0];
}

template <class V>
[[gnu::always_inline]] inline auto max_lanes(V v) {
  return max_of_groups(max_groups(v));
}

}  // namespace gemlet
