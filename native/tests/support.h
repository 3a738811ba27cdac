// What several tests need: every instruction set, random numbers, half floats, and comparison of bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "gemlet/kernels.h"

// Half a unit in the last place of 1: the largest relative error of one rounding to float32.
constexpr double kUnit = 0x1p-24;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The best one last.
inline std::vector<const gemlet::Kernels*> all_kernels() {
  std::vector<const gemlet::Kernels*> found;
  for (const char* name : {"portable", "avx2", "avx512", "neon_dotprod", "neon_i8mm"})
    if (const gemlet::Kernels* kernels = gemlet::find_kernels(name)) found.push_back(kernels);
  return found;
}

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<uint32_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  uint32_t bits() { return static_cast<uint32_t>(engine_()); }
  float normal() { return normal_(engine_); }
  float uniform(float low, float high) { return low + (high - low) * static_cast<float>(engine_() >> 8) * 0x1p-24f; }
  std::vector<float> normals(size_t n, float scale = 1) {
    std::vector<float> values(n);
    for (float& v : values) v = normal() * scale;
    return values;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

// By the definition of IEEE 754, in double.
inline double half_value(uint16_t h) {
  const int exponent = (h >> 10) & 31, fraction = h & 1023;
  const double magnitude = exponent == 31 ? (fraction ? std::nan("") : HUGE_VAL) : exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return h & 0x8000 ? -magnitude : magnitude;
}

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline bool same_bits(const float* a, const float* b, size_t n) { return std::memcmp(a, b, n * sizeof(float)) == 0; }
