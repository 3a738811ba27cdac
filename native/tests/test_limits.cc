// The machine's limits are rates of a machine: positive, finite, more threads are not refused, nonsense is.
#include <cmath>
#include <stdexcept>
#include <string>

#include "gemlet/limits.h"
#include "support.h"

int main() {
  for (const gemlet::Kernels* kernels : all_kernels())
    for (int threads : {1, 3}) {
      const gemlet::Limits limits = gemlet::measure_limits(*kernels, threads, 1 << 20, 0.01);
      for (double rate : {limits.read_bytes, limits.byte_products, limits.float_products})
        CHECK_WITH(std::isfinite(rate) && rate > 1e5 && rate < 1e15, kernels->name, threads, rate);
      // Wider elements cannot be multiplied faster than bytes, where both are in vectors.
      if (kernels->name != std::string("portable")) CHECK_WITH(limits.byte_products > limits.float_products / 4, kernels->name, limits.byte_products, limits.float_products);
    }
  const gemlet::Kernels& best = *gemlet::find_kernels("auto");
  CHECK_THROWS(std::invalid_argument, gemlet::measure_limits(best, 0, 1 << 20, 0.01));
  CHECK_THROWS(std::invalid_argument, gemlet::measure_limits(best, 257, 1 << 20, 0.01));
  CHECK_THROWS(std::invalid_argument, gemlet::measure_limits(best, 2, 100, 0.01));
  CHECK_THROWS(std::invalid_argument, gemlet::measure_limits(best, 2, gemlet::kMostLimitBytes + 1, 0.01));
  CHECK_THROWS(std::invalid_argument, gemlet::measure_limits(best, 2, 1 << 20, NAN));
}
