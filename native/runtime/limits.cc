#include "gemlet/limits.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <string_view>

#include "gemlet/thread_pool.h"

namespace gemlet {

namespace portable {
extern const LimitKernels kLimitKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const LimitKernels kLimitKernels;
}
namespace avx512 {
extern const LimitKernels kLimitKernels;
}
#elif defined(__aarch64__)
namespace neon_dotprod {
extern const LimitKernels kLimitKernels;
}
namespace neon_i8mm {
extern const LimitKernels kLimitKernels;
}
#endif

namespace {

const LimitKernels& limit_kernels(std::string_view name) {
#if defined(__x86_64__)
  if (name == "avx512") return avx512::kLimitKernels;
  if (name == "avx2") return avx2::kLimitKernels;
#elif defined(__aarch64__)
  if (name == "neon_i8mm") return neon_i8mm::kLimitKernels;
  if (name == "neon_dotprod") return neon_dotprod::kLimitKernels;
#endif
  if (name != "portable") throw std::invalid_argument("limits: no such instruction set");
  return portable::kLimitKernels;
}

// Work a second of the fastest of the passes that fit into the time, three at least. `pass` returns the work it did.
template <class Pass>
double best_rate(double seconds, Pass&& pass) {
  using Clock = std::chrono::steady_clock;
  double best = 0, total = 0;
  for (int i = 0; i < 3 || total < seconds; i++) {
    const auto began = Clock::now();
    const double work = pass();
    const double took = std::max(std::chrono::duration<double>(Clock::now() - began).count(), 1e-9);
    best = std::max(best, work / took);
    total += took;
  }
  return best;
}

// One pass of each way to multiply is as long as about a millisecond.
double product_rate(ThreadPool& pool, double (*const (&ways)[3])(int64_t), double seconds) {
  double best = 0;
  for (const auto& way : ways) {
    int64_t rounds = 1 << 10;
    const double rate = best_rate(0, [&] { return way(rounds); });
    rounds = std::max<int64_t>(rounds, static_cast<int64_t>(rate * 1e-3 / way(1)));
    best = std::max(best, best_rate(seconds / 3, [&] {
      pool.run([&](int) { way(rounds); });
      return pool.size() * static_cast<double>(rounds) * way(1);
    }));
  }
  return best;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

double read_rate(ThreadPool& pool, const LimitKernels& kernels, int64_t bytes, double seconds) {
  const int64_t share = bytes / pool.size() / 256 * 256;  // in whole lines of up to four places
  constexpr int64_t kLargePage = int64_t{1} << 21;
  const size_t size = static_cast<size_t>((share * pool.size() + kLargePage - 1) / kLargePage * kLargePage);
  const std::unique_ptr<uint8_t, Free> memory(static_cast<uint8_t*>(std::aligned_alloc(kLargePage, size)));
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  madvise(memory.get(), size, MADV_HUGEPAGE);  // a wish: one thread reads small pages more slowly
#endif
  uint8_t* const first = memory.get();
  // Every thread writes what it will read, so that the pages lie where it runs.
  pool.run([&](int thread) { std::memset(first + thread * share, 1, static_cast<size_t>(share)); });
  double best = 0;
  for (const auto& read : kernels.read_memory)
    best = std::max(best, best_rate(seconds / 3, [&] {
      pool.run([&](int thread) { read(first + thread * share, share); });
      return static_cast<double>(share * pool.size());
    }));
  return best;
}

}  // namespace

Limits measure_limits(const Kernels& kernels, int threads, int64_t bytes, double seconds) {
  if (threads < 1 || threads > 256) throw std::invalid_argument("threads must be 1 to 256");
  if (bytes < int64_t{256} * threads || bytes > kMostLimitBytes) throw std::invalid_argument("limits: impossible amount of memory");
  if (!(seconds >= 0 && seconds <= 60)) throw std::invalid_argument("limits: impossible time");
  const LimitKernels& limits = limit_kernels(kernels.name);
  ThreadPool pool(threads);
  return {read_rate(pool, limits, bytes, seconds / 3), product_rate(pool, limits.multiply_bytes, seconds / 3), product_rate(pool, limits.multiply_floats, seconds / 3)};
}

}  // namespace gemlet
