// Timing for the benchmarks: the best of several runs, and this processor's own limits to compare with.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <numeric>
#include <vector>

// Seconds of the fastest of several calls, after one to warm up; about a quarter of a second in all.
template <class Function>
double best_seconds(Function&& f) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9, total = 0;
  f();
  for (int i = 0; i < 5 || (total < 0.25 && i < 2000); i++) {
    const auto began = Clock::now();
    f();
    const double seconds = std::chrono::duration<double>(Clock::now() - began).count();
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

// Keeps a result alive without looking at it.
inline void keep(const void* p) { asm volatile("" : : "g"(p) : "memory"); }

struct alignas(64) Line {
  uint8_t bytes[64];
};

struct Memory {
  explicit Memory(int64_t bytes) : lines(static_cast<size_t>((bytes + 63) / 64)) {}
  uint8_t* data() { return lines.data()->bytes; }
  void fill(uint8_t even, uint8_t odd) {
    for (Line& line : lines)
      for (int i = 0; i < 64; i++) line.bytes[i] = i % 2 ? odd : even;
  }
  std::vector<Line> lines;
};

// More than any cache holds.
constexpr int64_t kLarge = 192 << 20;

// Adds up memory in vectors as wide as the compiler was told of, four lines at a time.
template <class Vector>
[[gnu::always_inline]] inline void read_lines(const uint8_t* bytes, int64_t count) {
  Vector sums[4] = {};
  for (int64_t i = 0; i < count; i += 4 * static_cast<int64_t>(sizeof(Vector)))
    for (size_t j = 0; j < 4; j++) sums[j] += *reinterpret_cast<const Vector*>(bytes + i + j * sizeof(Vector));
  keep(sums);
}

#if defined(__x86_64__)
#include <immintrin.h>

__attribute__((target("avx2"), noinline)) inline void read_wide(const uint8_t* bytes, int64_t count) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 256)
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) sums[j] = _mm256_add_epi64(sums[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes + i + 32 * j)));
  for (__m256i& sum : sums) sum = _mm256_add_epi64(sum, sums[0]);
  keep(sums);
}
inline void read_memory(const uint8_t* bytes, int64_t count) { __builtin_cpu_supports("avx2") ? read_wide(bytes, count) : read_lines<uint64_t>(bytes, count); }

// Byte products of numbers kept in registers: as many as the processor can do.
__attribute__((target("avx512f,avx512vnni"), noinline)) inline void multiply_bytes(int64_t rounds) {
  __m512i a = _mm512_set1_epi8(1), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
  const __m512i x = _mm512_set1_epi8(3), y = _mm512_set1_epi8(2);
  for (; rounds > 0; rounds--) {
    a = _mm512_dpbusd_epi32(a, x, y), b = _mm512_dpbusd_epi32(b, x, y), c = _mm512_dpbusd_epi32(c, x, y), d = _mm512_dpbusd_epi32(d, x, y);
    e = _mm512_dpbusd_epi32(e, x, y), f = _mm512_dpbusd_epi32(f, x, y), g = _mm512_dpbusd_epi32(g, x, y), h = _mm512_dpbusd_epi32(h, x, y);
    i = _mm512_dpbusd_epi32(i, x, y), j = _mm512_dpbusd_epi32(j, x, y), k = _mm512_dpbusd_epi32(k, x, y), l = _mm512_dpbusd_epi32(l, x, y);
    asm volatile("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k), "+v"(l));
  }
}

// Multiply-accumulates a second, or 0 where the processor has no such instruction.
inline double byte_product_limit() {
  constexpr int64_t kRounds = 1 << 18;
  if (!__builtin_cpu_supports("avx512vnni")) return 0;
  return static_cast<double>(kRounds) * 12 * 64 / best_seconds([] { multiply_bytes(kRounds); });
}
#else
inline void read_memory(const uint8_t* bytes, int64_t count) { read_lines<uint64_t>(bytes, count); }
inline double byte_product_limit() { return 0; }
#endif

// Bytes a second that one thread reads from memory.
inline double memory_limit() {
  Memory memory(kLarge);
  memory.fill(1, 2);
  return static_cast<double>(kLarge) / best_seconds([&] { read_memory(memory.data(), kLarge); });
}
