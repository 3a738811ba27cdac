// Row operations against double precision, whatever the width, and without a write past the row.
#include <algorithm>

#include "support.h"

using namespace gemlet;

namespace {

constexpr float kGuard = 777.0f;

// A row of exactly `width` floats, where a sanitizer sees a read past its end, and room behind the result for what must not be written.
struct Result {
  std::vector<float> values;
  int width;

  explicit Result(int width) : values(static_cast<size_t>(width) + 16, kGuard), width(width) {}
  ~Result() {
    for (size_t i = static_cast<size_t>(width); i < values.size(); i++) CHECK_WITH(values[i] == kGuard, width, i);
  }
  float* data() { return values.data(); }
  double operator[](int i) const { return values[static_cast<size_t>(i)]; }
};

std::vector<float> any_size(Random& random, int width, int low, int high) {
  std::vector<float> x = random.normals(static_cast<size_t>(width));
  for (float& v : x) v *= std::ldexp(1.0f, random.between(low, high));
  return x;
}

void check_add(const Kernels& k, int width, Random& random) {
  const std::vector<float> a = any_size(random, width, -100, 100), b = any_size(random, width, -100, 100);
  Result out(width);
  k.add(a.data(), b.data(), width, out.data());
  for (int i = 0; i < width; i++) CHECK(out.values[static_cast<size_t>(i)] == a[static_cast<size_t>(i)] + b[static_cast<size_t>(i)]);
}

// A lane adds group / 16 squares (two roundings each without fused arithmetic), four more additions join the lanes; the root halves
// that error. Division by the width, epsilon, root, reciprocal and two products round once each.
void check_norm(const Kernels& k, int groups, int group, float scale, float eps, Random& random) {
  const int width = groups * group;
  const std::vector<float> x = random.normals(static_cast<size_t>(width), scale), weight = random.normals(static_cast<size_t>(group));
  Result out(width);
  k.norm(x.data(), weight.data(), width, group, eps, out.data());
  const double relative = ((2.0 * (group / 16 + 1) + 4) / 2 + 6) * kUnit;
  for (int g = 0; g < groups; g++) {
    double squares = 0;
    for (int i = 0; i < group; i++) squares += std::pow(x[static_cast<size_t>(g * group + i)], 2.0);
    for (int i = 0; i < group; i++) {
      const double expected = x[static_cast<size_t>(g * group + i)] / std::sqrt(squares / group + eps) * weight[static_cast<size_t>(i)];
      CHECK_WITH(std::fabs(out[g * group + i] - expected) <= relative * std::fabs(expected), k.name, groups, group, i, out[g * group + i], expected);
    }
  }
}

// gelu(g) * u = g * u / (1 + exp(z)). z has five roundings, which reach exp(z) as an absolute error of 5 |z| units; exp itself adds 2e-7;
// one addition, one division and one product follow. z is held to [-87, 88]: what is then left of the result is below |g u| exp(-86.9).
void check_gelu_gate(const Kernels& k, const std::vector<float>& gate, Random& random) {
  const int width = static_cast<int>(gate.size());
  const std::vector<float> up = random.normals(gate.size());
  Result out(width);
  k.gelu_gate(gate.data(), up.data(), width, out.data());
  for (int i = 0; i < width; i++) {
    const double g = gate[static_cast<size_t>(i)], u = up[static_cast<size_t>(i)], z = -2 * std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
    const double expected = z > 700 ? 0 : g * u / (1 + std::exp(z)), share = z > 700 ? 1 : std::exp(z) / (1 + std::exp(z));
    const double relative = share * (5 * kUnit * std::fabs(z) + 2e-7) + 4 * kUnit;
    CHECK_WITH(std::fabs(out[i] - expected) <= relative * std::fabs(expected) + std::fabs(g * u) * std::exp(-86.9) + 0x1p-149, k.name, g, u, out[i], expected);
  }
}

// silu(g) * u = g * u / (1 + exp(-g)): exp adds 2e-7 to its share, an addition, a division and a product follow. Its argument is held to [-87, 88].
void check_silu_gate(const Kernels& k, const std::vector<float>& gate, Random& random) {
  const int width = static_cast<int>(gate.size());
  const std::vector<float> up = random.normals(gate.size());
  Result out(width);
  k.silu_gate(gate.data(), up.data(), width, out.data());
  for (int i = 0; i < width; i++) {
    const double g = gate[static_cast<size_t>(i)], u = up[static_cast<size_t>(i)];
    const double expected = g < -700 ? 0 : g * u / (1 + std::exp(-g)), share = g < -700 ? 1 : std::exp(-g) / (1 + std::exp(-g));
    const double relative = share * (2 * kUnit * std::fabs(g) + 2e-7) + 4 * kUnit;
    CHECK_WITH(std::fabs(out[i] - expected) <= relative * std::fabs(expected) + std::fabs(g * u) * std::exp(-86.9) + 0x1p-149, k.name, g, u, out[i], expected);
  }
}

void check_silu_gates(const Kernels& k, Random& random) {
  for (int width = 1; width <= 50; width++) check_silu_gate(k, random.normals(static_cast<size_t>(width), 3), random);
  std::vector<float> sweep;
  for (float g = -95; g < 95; g += 0.0171f) sweep.push_back(g);
  for (float g : {0.0f, -0.0f, 1e-45f, -1e-45f, 1e-30f, 1e10f, -1e10f, 5e37f, -5e37f}) sweep.push_back(g);
  check_silu_gate(k, sweep, random);
}

void check_gelu_gates(const Kernels& k, Random& random) {
  for (int width = 1; width <= 50; width++) check_gelu_gate(k, random.normals(static_cast<size_t>(width), 3), random);
  std::vector<float> sweep;  // exp over its whole positive range, and far beyond
  for (float g = -12; g < 12; g += 0.0037f) sweep.push_back(g);
  for (float g : {0.0f, -0.0f, 1e-45f, -1e-45f, 1e-30f, 50.0f, -50.0f, 1e10f, -1e10f, 5e37f, -5e37f}) sweep.push_back(g);
  check_gelu_gate(k, sweep, random);
  Result out(7);
  const float odd[7] = {kInfinity, -kInfinity, NAN, 1, kInfinity, NAN, 1}, up[7] = {1, 1, 1, NAN, 0, 0, -kInfinity};
  k.gelu_gate(odd, up, 7, out.data());  // only has to be defined
}

// Two products and their sum: a rounding each.
void check_rope(const Kernels& k, int heads, int head_dim, Random& random) {
  const int width = heads * head_dim, half = head_dim / 2;
  const std::vector<float> x = random.normals(static_cast<size_t>(width));
  std::vector<float> table(static_cast<size_t>(head_dim));
  for (int i = 0; i < half; i++) {
    const double angle = random.uniform(-30000, 30000);
    table[static_cast<size_t>(i)] = static_cast<float>(std::cos(angle));
    table[static_cast<size_t>(half + i)] = static_cast<float>(std::sin(angle));
  }
  Result out(width);
  k.rope(x.data(), table.data(), width, head_dim, out.data());
  for (int h = 0; h < heads; h++)
    for (int i = 0; i < half; i++) {
      const double a = x[static_cast<size_t>(h * head_dim + i)], b = x[static_cast<size_t>(h * head_dim + half + i)];
      const double c = table[static_cast<size_t>(i)], s = table[static_cast<size_t>(half + i)];
      CHECK(std::fabs(out[h * head_dim + i] - (a * c - b * s)) <= 2.01 * kUnit * (std::fabs(a * c) + std::fabs(b * s)));
      CHECK(std::fabs(out[h * head_dim + half + i] - (b * c + a * s)) <= 2.01 * kUnit * (std::fabs(b * c) + std::fabs(a * s)));
    }
}

// Each operation gives an element the same bits wherever in a row it stands.
void check_places(const Kernels& k, Random& random) {
  const std::vector<float> a = random.normals(40), b = random.normals(40);
  std::vector<float> sum(40), gate(40), silu(40), one(1);
  k.add(a.data(), b.data(), 40, sum.data());
  k.gelu_gate(a.data(), b.data(), 40, gate.data());
  k.silu_gate(a.data(), b.data(), 40, silu.data());
  for (size_t i = 0; i < 40; i++) {
    k.add(&a[i], &b[i], 1, one.data());
    CHECK(same_bits(one.data(), &sum[i], 1));
    k.gelu_gate(&a[i], &b[i], 1, one.data());
    CHECK(same_bits(one.data(), &gate[i], 1));
    k.silu_gate(&a[i], &b[i], 1, one.data());
    CHECK(same_bits(one.data(), &silu[i], 1));
  }
}

}  // namespace

int main() {
  Random random(3);
  for (const Kernels* k : all_kernels()) {
    for (int width = 1; width <= 70; width++) check_add(*k, width, random);
    for (int group = 1; group <= 70; group++) check_norm(*k, random.between(1, 4), group, 1, 1e-6f, random);
    for (float scale : {1e-15f, 1e-3f, 1e3f, 1e15f})
      for (int width : {640, 1152, 6912}) check_norm(*k, 1, width, scale, 1e-6f, random);
    check_norm(*k, 3, 32, 0, 1e-6f, random);
    check_gelu_gates(*k, random);
    check_silu_gates(*k, random);
    for (int half = 1; half <= 40; half++) check_rope(*k, random.between(1, 4), 2 * half, random);
    check_rope(*k, 4, 256, random);
    check_places(*k, random);
  }
}
