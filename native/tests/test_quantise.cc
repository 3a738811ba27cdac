// Activations in blocks of 32: the codes give the values back within half a step, and no input is undefined.
#include "matrices.h"

using namespace gemlet;

namespace {

using Block = std::vector<float>;  // 32 values

float peak_outside(const Block& x, int group) {
  float peak = 0;
  for (int c = 0; c < 32; c++)
    if (c / 4 != group) peak = std::max(peak, std::fabs(x[static_cast<size_t>(c)]));
  return peak;
}

void check_sums(const QuantisedRows& q, int b) {
  int sums[2] = {0, 0};
  for (int c = 0; c < 32; c++) sums[c / 16] += q.code(0, 32 * b + c);
  const QuantisedBlock& block = q.block(0, b);
  CHECK(block.half_sums[0] == sums[0] && block.half_sums[1] == sums[1] && block.sum == sums[0] + sums[1]);
}

// The code is v * (top / reach) rounded to an integer, and the scale is reach / top: four roundings of 2^-24 of at most `most` steps
// come on top of half a step, and half of 2^-149 where the scale is below the normal range. Blocks below 1e-34 are zero.
void check_block(const Kernels& k, const Block& x, bool precise) {
  const QuantisedRows q(k, x.data(), 32, 1, 32, precise);
  const QuantisedBlock& block = q.block(0, 0);
  const float peak = peak_outside(x, -1), scale = block.scale;
  const double most = precise ? 32512 : 254;
  CHECK(scale >= 0 && std::isfinite(scale));
  CHECK(block.spare_group() >= 0 && block.spare_group() < 8);
  for (int8_t code : block.codes) CHECK(precise || code >= -127);
  for (int c = 0; c < 32; c++) {
    const int code = q.code(0, c);
    const double error = std::fabs(static_cast<double>(scale) * code - x[static_cast<size_t>(c)]);
    if (code == 0 && peak <= 2e-34f) continue;
    CHECK_WITH(error <= scale * (0.5 + most * 4 * kUnit) + most * 0x1p-149, k.name, precise, c, x[static_cast<size_t>(c)], scale, code);
  }
  // The step is no coarser than promised. A group's number in the lowest bits of its peak widens it by 2^-20.
  const double reach = precise ? peak : std::max(peak_outside(x, block.spare_group()), peak / 2);
  CHECK_WITH(scale * (precise ? 32512.0 : 127.0) <= reach * (1 + 0x1p-20) + 32512 * 0x1p-149, k.name, precise, scale, reach);
  check_sums(q, 0);
}

void check_both(const Kernels& k, const Block& x) {
  check_block(k, x, false);
  check_block(k, x, true);
}

Block random_block(Random& random, float scale) { return random.normals(32, scale); }

void check_ordinary(const Kernels& k, Random& random) {
  for (int i = 0; i < 2000; i++) check_both(k, random_block(random, std::ldexp(1.0f, random.between(-110, 100))));
  check_both(k, Block(32, 0.0f));
  check_both(k, Block(32, -0.0f));
  for (float value : {1.0f, -1.0f, 127.0f, 0.1f, 3e38f, -3.4028235e38f, 1e-38f, 1e-45f, 1.1e-36f, 5e-36f, 9e-35f, 1e-34f}) check_both(k, Block(32, value));
}

void check_outliers(const Kernels& k, Random& random) {
  for (int i = 0; i < 2000; i++) {
    Block x = random_block(random, std::ldexp(1.0f, random.between(-30, 30)));
    const int many = random.between(1, 3);
    for (int j = 0; j < many; j++) x[static_cast<size_t>(random.below(32))] *= random.uniform(1, 3000);
    check_both(k, x);
  }
  for (int at = 0; at < 32; at++)
    for (float small : {0.0f, 1e-45f, 1e-3f, 0.49999f, 0.5f, 0.50001f, 1.0f}) {  // around the border where the second helping is full
      Block x(32, small);
      x[static_cast<size_t>(at)] = at % 2 ? 1.0f : -1.0f;
      check_both(k, x);
      x[static_cast<size_t>((at + 4) % 32)] = 1.0f;  // the same peak in two groups
      check_both(k, x);
      x[static_cast<size_t>((at + 4) % 32)] = std::nextafter(1.0f, 2.0f);  // peaks that differ only in the bits of the group's number
      check_both(k, x);
    }
}

// Values halfway between two codes, at the ends of the range too.
void check_edges(const Kernels& k) {
  for (int top : {127, 254})
    for (int i = 0; i < 4 * top; i++) {
      Block x(32, 0.0f);
      x[0] = static_cast<float>(top);
      x[31] = 127.0f;
      x[1] = static_cast<float>(i) * 0.5f - static_cast<float>(top);
      x[17] = std::min(127.0f, -x[1]);
      check_both(k, x);
    }
}

// An outlier in one block leaves the codes of another block and of another row alone, and a row's codes do not depend on its place.
void check_apart(const Kernels& k, Random& random) {
  const int rows = 13, columns = 96;
  std::vector<float> x = random.normals(static_cast<size_t>(rows * columns));
  for (bool precise : {false, true}) {
    const QuantisedRows all(k, x.data(), columns, rows, columns, precise);
    for (int r = 0; r < rows; r++) {
      std::vector<float> alone(x.begin() + r * columns, x.begin() + (r + 1) * columns);
      alone[70] = 1e6f;
      const QuantisedRows one(k, alone.data(), columns, 1, columns, precise);
      for (int c = 0; c < 64; c++) CHECK(one.code(0, c) == all.code(r, c) && one.scale(0, c) == all.scale(r, c));
    }
  }
}

// What comes out of such a row is of no use to anyone, but it must be defined and must not reach its neighbours.
void check_not_finite(const Kernels& k, Random& random) {
  const Matrix m(Format::i8, 32, 64, Kind::random, random);
  for (bool precise : {false, true})
    for (uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc00000u, 0x7f800001u, 0x7fffffffu, 0xffffffffu})
      for (size_t at : {0, 5, 31, 40, 63}) {
        std::vector<float> x = random.normals(3 * 64), clean = x, out(3 * 32), expected(3 * 32);
        x[64 + at] = float_of(bits);
        if (at == 5) std::fill(x.begin() + 64, x.begin() + 128, float_of(bits));
        const QuantisedRows q(k, x.data(), 64, 3, 64, precise), ordinary(k, clean.data(), 64, 3, 64, precise);
        k.linear(m.weight(), q.view(), out.data(), 32, 3, 0, 2);
        k.linear(m.weight(), ordinary.view(), expected.data(), 32, 3, 0, 2);
        CHECK(same_bits(out.data(), expected.data(), 32));
        CHECK(same_bits(out.data() + 64, expected.data() + 64, 32));
      }
}

}  // namespace

int main() {
  Random random(2);
  for (const Kernels* k : all_kernels()) {
    check_ordinary(*k, random);
    check_outliers(*k, random);
    check_edges(*k);
    check_apart(*k, random);
    check_not_finite(*k, random);
  }
}
