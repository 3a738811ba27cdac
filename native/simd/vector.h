// Sixteen lanes of float or int32 as compiler vectors: one source for every instruction set.
#pragma once
#include <cstdint>
#include <cstring>

namespace gemlet {

using f32x16 = float __attribute__((vector_size(64)));
using i32x16 = int32_t __attribute__((vector_size(64)));
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

// Sum and maximum over lanes, always in the same tree.
[[gnu::always_inline]] inline float sum_lanes(f32x16 v) {
  float x[16];
  store(x, v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++) x[i] += x[i + width];
  return x[0];
}

[[gnu::always_inline]] inline float max_lanes(f32x16 v) {
  float x[16];
  store(x, v);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; i++) x[i] = x[i] > x[i + width] ? x[i] : x[i + width];
  return x[0];
}

}  // namespace gemlet
