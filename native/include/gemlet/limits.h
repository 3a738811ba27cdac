// The rates that nothing on this machine can pass: bytes read from memory, and products of bytes and of floats.
#pragma once
#include <cstdint>

#include "gemlet/kernels.h"

namespace gemlet {

// Loops of one instruction set that measure it, each in several shapes. The first two return the multiply-adds done.
struct LimitKernels {
  double (*multiply_bytes[3])(int64_t rounds);
  double (*multiply_floats[3])(int64_t rounds);
  void (*read_memory[3])(const uint8_t* bytes, int64_t count);
};

struct Limits {
  double read_bytes, byte_products, float_products;  // a second, all threads together
};

constexpr int64_t kMostLimitBytes = int64_t{1} << 34;

// Measures for about as long as `seconds`, the best of several passes: whatever disturbs a pass only slows it.
// `bytes` is how much memory is read in one pass, and must be more than the caches hold.
Limits measure_limits(const Kernels& kernels, int threads, int64_t bytes, double seconds);

}  // namespace gemlet
