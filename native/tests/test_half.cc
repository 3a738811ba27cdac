// Conversions from and to half floats, for every pattern and around every rounding border, through the kernels that use them.
#include <algorithm>

#include "support.h"

using namespace gemlet;

namespace {

std::vector<float> widened(const Kernels& k) {
  std::vector<uint16_t> table(65536);  // one panel of 16 rows: pattern h stands in column h / 16 of row h % 16
  for (size_t h = 0; h < table.size(); h++) table[h] = static_cast<uint16_t>(h);
  const Weight w{Format::f16, 16, 4096, reinterpret_cast<const uint8_t*>(table.data()), nullptr, nullptr};
  std::vector<float> values(65536), row(4096);
  for (int r = 0; r < 16; r++) {
    k.embed(w, r, 1.0f, row.data());
    for (size_t c = 0; c < row.size(); c++) values[c * 16 + static_cast<size_t>(r)] = row[c];
  }
  return values;
}

// As a value of the cache. Keys must agree with it.
std::vector<uint16_t> narrowed(const Kernels& k, const std::vector<float>& x) {
  const int dim = 64, slot = 17;
  std::vector<uint16_t> out;
  const AttendShape shape{1, 1, dim, 0, 1.0f};
  std::vector<uint16_t> page(static_cast<size_t>(shape.page_head_elements()));
  std::vector<float> part(static_cast<size_t>(dim));
  for (size_t start = 0; start < x.size(); start += part.size()) {
    const size_t count = std::min(part.size(), x.size() - start);
    std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(start), count, part.begin());
    k.store_key_value(part.data(), part.data(), shape, page.data(), slot);
    for (size_t i = 0; i < count; i++) {
      CHECK(page[i * kPagePositions + slot] == page[static_cast<size_t>(dim) * kPagePositions + slot * static_cast<size_t>(dim) + i]);
      out.push_back(page[i * kPagePositions + slot]);
    }
  }
  return out;
}

constexpr int kLargest = 0x7bff;

bool is_nan(uint16_t h) { return (h & 0x7fff) > 0x7c00; }
bool is_finite(uint16_t h) { return (h & 0x7fff) <= kLargest; }

void check_widening(const Kernels& k) {
  const std::vector<float> values = widened(k);
  for (size_t h = 0; h < values.size(); h++) {
    const double expected = half_value(static_cast<uint16_t>(h));
    CHECK_WITH(is_nan(static_cast<uint16_t>(h)) ? std::isnan(values[h]) : float_bits(values[h]) == float_bits(static_cast<float>(expected)), k.name, h, values[h], expected);
  }
}

void check_narrowing(const Kernels& k) {
  std::vector<float> x;
  std::vector<uint16_t> expected;
  const auto add = [&](float value, int half) {
    for (int sign : {0, 0x8000}) {
      x.push_back(sign ? -value : value);
      expected.push_back(static_cast<uint16_t>(std::min(half, kLargest) | sign));
    }
  };
  // Between neighbours a and a + 1 the middle goes to the even one, all else to the nearer; pages hold no infinity, so 65504 is the end.
  for (int a = 0; a < 0x7c00; a++) {
    const float low = static_cast<float>(half_value(static_cast<uint16_t>(a)));
    const float high = a + 1 == 0x7c00 ? 65536.0f : static_cast<float>(half_value(static_cast<uint16_t>(a + 1)));
    const float middle = low + (high - low) / 2;
    add(low, a);
    add(std::nextafter(low, kInfinity), a);
    add(std::nextafter(middle, 0.0f), a);
    add(middle, a % 2 ? a + 1 : a);
    add(std::nextafter(middle, kInfinity), a + 1);
  }
  for (float huge : {65536.0f, 1e6f, 3.4028235e38f, kInfinity}) add(huge, 0x7c00);
  for (float tiny : {1e-45f, 1.17549421e-38f, 1.17549435e-38f}) add(tiny, 0);
  const std::vector<uint16_t> got = narrowed(k, x);
  for (size_t i = 0; i < x.size(); i++) CHECK_WITH(got[i] == expected[i], k.name, x[i], got[i], expected[i]);
  for (uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) CHECK(is_finite(narrowed(k, {float_of(bits)})[0]));
}

void check_round_trip(const Kernels& k) {
  const std::vector<float> values = widened(k);
  const std::vector<uint16_t> back = narrowed(k, values);
  for (size_t h = 0; h < back.size(); h++) CHECK_WITH(is_finite(static_cast<uint16_t>(h)) ? back[h] == h : is_finite(back[h]), k.name, h, back[h]);
}

}  // namespace

int main() {
  for (const Kernels* k : all_kernels()) {
    check_widening(*k);
    check_narrowing(*k);
    check_round_trip(*k);
  }
}
