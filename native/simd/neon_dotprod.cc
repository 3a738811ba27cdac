// The kernels built for one instruction set; the compiler flags for this file are set by the build.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "gemlet/limits.h"
#include "simd/neon_dotprod.h"

namespace gemlet::neon_dotprod {
#include "ops/elementwise.inl"
#include "ops/linear.inl"
#include "ops/adapter.inl"
#include "ops/attend.inl"
#include "ops/choose.inl"
#include "ops/head.inl"
#include "ops/limits.inl"
#include "ops/table.inl"
}  // namespace gemlet::neon_dotprod
