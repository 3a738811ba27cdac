// Timing for the benchmarks: the best of several runs.
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
