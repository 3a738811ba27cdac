#include <string_view>

#if defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif
#endif

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
#elif defined(__aarch64__)
namespace neon_dotprod {
extern const Kernels kKernels;
}
namespace neon_i8mm {
extern const Kernels kKernels;
}
#endif

#if defined(__aarch64__)
namespace {

struct Arm {
  bool dotprod = false, i8mm = false;
};

// What cannot be asked for is taken as missing.
Arm processor() {
#if defined(__linux__)
  constexpr unsigned long kDotprod = 1ul << 20, kI8mm = 1ul << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM: older headers lack them
  return {(getauxval(AT_HWCAP) & kDotprod) != 0, (getauxval(AT_HWCAP2) & kI8mm) != 0};
#elif defined(__APPLE__)
  const auto has = [](const char* feature) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(feature, &value, &size, nullptr, 0) == 0 && value != 0;
  };
  return {has("hw.optional.arm.FEAT_DotProd"), has("hw.optional.arm.FEAT_I8MM")};
#else
  return {};
#endif
}

}  // namespace
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
#elif defined(__aarch64__)
  const Arm has = processor();
  if (has.dotprod && has.i8mm && (best || wanted == "neon_i8mm")) return &neon_i8mm::kKernels;
  if (has.dotprod && (best || wanted == "neon_dotprod")) return &neon_dotprod::kKernels;
#endif
  return best || wanted == "portable" ? &portable::kKernels : nullptr;
}

}  // namespace gemlet
