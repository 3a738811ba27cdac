// The largest values of a row against a sort, and log(sum(exp)) against long double.
#include <algorithm>
#include <numeric>

#include "support.h"

using namespace gemlet;

namespace {

void check_top_k(const Kernels& k, const std::vector<float>& x, int count) {
  const int n = static_cast<int>(x.size()), kept = std::max(0, std::min(count, n));
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[static_cast<size_t>(a)] > x[static_cast<size_t>(b)]; });
  std::vector<int32_t> ids(static_cast<size_t>(kept));
  std::vector<float> values(static_cast<size_t>(kept));
  CHECK(k.top_k(x.data(), n, count, ids.data(), values.data()) == kept);
  for (int i = 0; i < kept; i++) {
    const size_t at = static_cast<size_t>(i);
    CHECK_WITH(ids[at] == order[at] && values[at] == x[static_cast<size_t>(order[at])], k.name, n, count, i, ids[at], order[at]);
  }
}

void check_all_top_k(const Kernels& k, Random& random) {
  for (int n : {1, 2, 15, 16, 17, 63, 64, 65, 1000, 4099})
    for (int distinct : {1, 2, 7, 1 << 20}) {  // few different values: ties everywhere
      std::vector<float> x(static_cast<size_t>(n));
      for (float& v : x) v = static_cast<float>(random.below(distinct)) - static_cast<float>(distinct / 2);
      for (int count : {0, 1, 2, 16, 64, n - 1, n, n + 5}) check_top_k(k, x, count);
      std::sort(x.begin(), x.end());
      check_top_k(k, x, 64);  // every vector holds a better one
      x[static_cast<size_t>(random.below(n))] = -kInfinity;
      x[static_cast<size_t>(random.below(n))] = kInfinity;
      check_top_k(k, x, 5);
    }
  check_top_k(k, std::vector<float>(100, -kInfinity), 3);
  check_top_k(k, {0.0f, -0.0f, 0.0f, -0.0f, 0.0f}, 4);  // equal, so by id
  std::vector<float> x = random.normals(100);
  x[3] = x[50] = x[99] = NAN;  // no order is promised, but ids are ids
  std::vector<int32_t> ids(20);
  std::vector<float> values(20);
  CHECK(k.top_k(x.data(), 100, 20, ids.data(), values.data()) == 20);
  for (int32_t id : ids) CHECK(id >= 0 && id < 100);
}

double exact(const std::vector<float>& x) {
  const long double peak = *std::max_element(x.begin(), x.end());
  long double total = 0;
  for (float v : x) total += std::exp(static_cast<long double>(v) - peak);
  return static_cast<double>(peak + std::log(total));
}

// exp has a relative error of 2e-7 and its argument one rounding of at most |x - peak| units, which matters most near the peak; sixteen
// additions in a lane and four between lanes round once each. The logarithm turns this relative error into an absolute one.
void check_log_sum_exp(const Kernels& k, const std::vector<float>& x) {
  const double got = k.log_sum_exp(x.data(), static_cast<int>(x.size())), expected = exact(x);
  const double spread = std::fabs(*std::max_element(x.begin(), x.end()) - *std::min_element(x.begin(), x.end()));
  CHECK_WITH(std::fabs(got - expected) <= 2e-7 + (20 + std::min(spread, 90.0)) * kUnit + 1e-15 * std::fabs(expected), k.name, x.size(), got, expected);
}

void check_all_log_sum_exp(const Kernels& k, Random& random) {
  for (int n : {1, 2, 15, 16, 17, 255, 256, 257, 1000, 5003})
    for (float scale : {0.0f, 1.0f, 20.0f, 1000.0f}) check_log_sum_exp(k, random.normals(static_cast<size_t>(n), scale));
  std::vector<float> x(300, -kInfinity);
  CHECK(k.log_sum_exp(x.data(), 300) == -HUGE_VAL);
  x[299] = -3.0f;
  CHECK(k.log_sum_exp(x.data(), 300) == -3.0);
  x[7] = kInfinity;
  CHECK(k.log_sum_exp(x.data(), 300) == HUGE_VAL);
  x[9] = NAN;
  k.log_sum_exp(x.data(), 300);  // only has to be defined
}

// The parts of 256 are joined in double: with the peak in one and y in another, exp(result) - 1 is exp(y) as the kernel has it.
void check_exponential(const Kernels& k) {
  std::vector<float> x(512, -kInfinity);
  x[0] = 0.0f;
  for (float y = -15; y <= 0; y += 0.00173f) {
    x[256 + 3] = y;
    const double got = std::expm1(k.log_sum_exp(x.data(), 512)), expected = std::exp(static_cast<double>(y));
    CHECK_WITH(std::fabs(got / expected - 1) <= 2e-7, k.name, y, got, expected);
  }
}

}  // namespace

int main() {
  Random random(4);
  for (const Kernels* k : all_kernels()) {
    check_all_top_k(*k, random);
    check_all_log_sum_exp(*k, random);
    check_exponential(*k);
  }
}
