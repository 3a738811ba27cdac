#include <string_view>

#include "gemlet/kernels.h"

namespace gemlet {

namespace portable {
extern const Kernels kKernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kKernels;
}
namespace avx512 {
extern const Kernels kKernels;
}
#endif

const Kernels* find_kernels(const char* name) {
  const std::string_view wanted = name;
  const bool best = wanted == "auto";
#if defined(__x86_64__)
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
  if (has_avx512 && (best || wanted == "avx512")) return &avx512::kKernels;
  if (has_avx2 && (best || wanted == "avx2")) return &avx2::kKernels;
#endif
  return best || wanted == "portable" ? &portable::kKernels : nullptr;
}

}  // namespace gemlet
