// Matrix products and table rows, against sums in double precision, and bit by bit against themselves.
#include "matrices.h"

using namespace gemlet;

namespace {

constexpr float kGuard = 12345.0f;

struct Output {
  int64_t stride;
  std::vector<float> values;

  Output(const Weight& w, int rows) : stride(w.panels() * 16 + 16), values(static_cast<size_t>(stride * rows), kGuard) {}
  const float* row(int r) const { return values.data() + r * stride; }

  void check_untouched_outside(int rows, int begin, int end) const {
    for (int r = 0; r < rows; r++)
      for (int64_t i = 0; i < stride; i++) CHECK_WITH((i >= begin * 16 && i < end * 16) || row(r)[i] == kGuard, r, i);
  }
};

// The product of the codes is an exact integer. Each term then meets at most four roundings of 2^-24 (the integer, the product of the
// scales, their product with it, and for a minimum the sum's product), and each of the `terms` additions one, of a partial sum that is
// never above the sum of magnitudes. A product of scales below the normal range loses half of 2^-149 more.
double tolerance(double magnitude, int terms, double largest_dot) { return (terms + 4) * kUnit * 1.001 * magnitude + (largest_dot + 1) * terms * 0x1p-149; }

void check_values(const Kernels& k, const Matrix& m, const QuantisedRows& x, const Output& out, int rows) {
  const Weight& w = m.weight();
  for (int r = 0; r < rows; r++)
    for (int n = 0; n < w.rows; n++) {
      double sum = 0, magnitude = 0, largest = 0;
      for (int start = 0; start < w.columns; start += 16) {
        int64_t dot = 0, codes = 0;
        for (int c = start; c < start + 16; c++) dot += m.code(n, c) * x.code(r, c), codes += x.code(r, c);
        const double scale = x.scale(r, start), term = m.scale(n, start) * scale * static_cast<double>(dot), low = m.min(n, start) * scale * static_cast<double>(codes);
        sum += term + low;
        // Halves of a block are added as integers, where they may cancel: magnitudes are an upper bound.
        magnitude += std::fabs(term) + std::fabs(low);
        largest = std::max(largest, std::fabs(static_cast<double>(dot)));
      }
      const double error = std::fabs(out.row(r)[n] - sum);
      CHECK_WITH(error <= tolerance(magnitude, 2 * w.blocks(), 2 * largest), k.name, static_cast<int>(w.format), r, n, out.row(r)[n], sum, magnitude);
    }
}

void check_block_format(const Kernels& k, Format format, bool precise, Kind kind, int rows, int outputs, int columns, Random& random) {
  const Matrix m(format, outputs, columns, kind, random);
  const Weight& w = m.weight();
  std::vector<float> x = random.normals(static_cast<size_t>(rows * columns));
  if (kind == Kind::extreme)
    for (float& v : x) v = random.below(8) ? v * std::ldexp(1.0f, random.between(-40, 20)) : random.below(2) ? 0.0f : v * 1e-41f;
  const QuantisedRows all(k, x.data(), columns, rows, columns, precise);
  Output whole(w, rows);
  k.linear(w, all.view(), whole.values.data(), whole.stride, rows, 0, w.panels());
  whole.check_untouched_outside(rows, 0, w.panels());
  check_values(k, m, all, whole, rows);

  for (int begin = 0; begin < w.panels(); begin++) {
    const int end = random.between(begin + 1, w.panels());
    Output part(w, rows);
    k.linear(w, all.view(), part.values.data(), part.stride, rows, begin, end);
    part.check_untouched_outside(rows, begin, end);
    for (int r = 0; r < rows; r++) CHECK_WITH(same_bits(part.row(r) + begin * 16, whole.row(r) + begin * 16, static_cast<size_t>(end - begin) * 16), k.name, begin, end, r);
  }
  for (int count = 1; count <= rows; count++) {  // a run of `count` rows somewhere among them
    const int first = random.between(0, rows - count);
    const QuantisedRows some(k, x.data() + first * columns, columns, count, columns, precise);
    Output part(w, count);
    k.linear(w, some.view(), part.values.data(), part.stride, count, 0, w.panels());
    for (int r = 0; r < count; r++) CHECK_WITH(same_bits(part.row(r), whole.row(first + r), static_cast<size_t>(w.panels()) * 16), k.name, static_cast<int>(format), count, first, r);
  }
}

// A dense product is one addition for each column, whose product may be rounded first.
void check_dense_format(const Kernels& k, Format format, Kind kind, int rows, int outputs, int columns, Random& random) {
  const Matrix m(format, outputs, columns, kind, random);
  const Weight& w = m.weight();
  const int64_t stride = columns + 3;
  const std::vector<float> x = random.normals(static_cast<size_t>(stride * rows));
  Output whole(w, rows);
  k.linear_dense(w, x.data(), stride, whole.values.data(), whole.stride, rows, 0, w.panels());
  whole.check_untouched_outside(rows, 0, w.panels());
  for (int r = 0; r < rows; r++)
    for (int n = 0; n < outputs; n++) {
      double sum = 0, magnitude = 0;
      for (int c = 0; c < columns; c++) {
        const double term = m.value(n, c) * x[static_cast<size_t>(r * stride + c)];
        sum += term, magnitude += std::fabs(term);
      }
      CHECK_WITH(std::fabs(whole.row(r)[n] - sum) <= (columns + 1) * kUnit * 1.001 * magnitude + columns * 0x1p-149, k.name, static_cast<int>(format), r, n, whole.row(r)[n], sum);
    }
  for (int count = 1; count <= rows; count++) {
    const int first = random.between(0, rows - count), begin = random.below(w.panels()), end = random.between(begin + 1, w.panels());
    Output part(w, count);
    k.linear_dense(w, x.data() + first * stride, stride, part.values.data(), part.stride, count, begin, end);
    part.check_untouched_outside(count, begin, end);
    for (int r = 0; r < count; r++) CHECK_WITH(same_bits(part.row(r) + begin * 16, whole.row(first + r) + begin * 16, static_cast<size_t>(end - begin) * 16), k.name, count, first, r);
  }
}

// Scale and minimum are rounded once each, and so is the product with the embedding's scale.
void check_embed(const Kernels& k, Format format, Random& random) {
  const int columns = is_dense(format) ? 37 : 96, rows = 37;
  const Matrix m(format, rows, columns, Kind::random, random);
  for (int id : {0, 1, 15, 16, 36}) {
    std::vector<float> out(static_cast<size_t>(columns));
    k.embed(m.weight(), id, 33.97f, out.data());
    for (int c = 0; c < columns; c++) {
      const double exact = m.value(id, c) * static_cast<double>(33.97f), largest = is_dense(format) ? std::fabs(exact) : 33.97 * std::fabs(m.scale(id, c) * m.code(id, c)) + std::fabs(exact);
      CHECK_WITH(std::fabs(out[static_cast<size_t>(c)] - exact) <= 3 * kUnit * largest, k.name, static_cast<int>(format), id, c);
    }
  }
}

}  // namespace

int main() {
  Random random(1);
  for (const Kernels* k : all_kernels()) {
    for (Format format : kBlockFormats)
      for (bool precise : {false, true})
        for (Kind kind : {Kind::random, Kind::extreme}) {
          check_block_format(*k, format, precise, kind, 20, 5 * 16, 64, random);
          check_block_format(*k, format, precise, kind, 7, 7 * 16 - 3, 224, random);
          for (int rows = 1; rows <= 20; rows++) check_block_format(*k, format, precise, kind, rows, 16 * random.between(1, 6) - random.below(16), 32 * random.between(1, 3), random);
        }
    for (Format format : kDenseFormats)
      for (Kind kind : {Kind::random, Kind::extreme})
        for (int rows = 1; rows <= 20; rows++) check_dense_format(*k, format, kind, rows, 16 * random.between(1, 9) - random.below(16), random.between(1, 70), random);
    for (Format format : kBlockFormats) check_embed(*k, format, random);
    for (Format format : kDenseFormats) check_embed(*k, format, random);
  }
}
