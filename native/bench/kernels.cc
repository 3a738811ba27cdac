// Speed of every kernel on one thread, at the shapes of a model of a thousand million weights.
// Usage: bench_kernels [instruction set, default auto]
#include <random>

#include "bench/measure.h"
#include "gemlet/limits.h"

using namespace gemlet;

namespace {

std::vector<float> normals(size_t n) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(engine);
  return x;
}

// Enough copies of the weights that a decode step's pass finds none of them in the cache.
void bench_linear(const Kernels& k, const Limits& limits, Format format, bool precise, int outputs, int columns, int rows) {
  const int64_t panels = (outputs + 15) / 16, blocks = panels * (columns / 32), code_size = blocks * code_bytes(format), scale_size = blocks * 32;
  const int64_t one = code_size + scale_size, copies = rows <= 8 ? std::max<int64_t>(1, kLarge / one) : 1;
  Memory codes(code_size * copies), scales(scale_size * copies), quantised(Quantised::bytes(rows, columns, precise));
  codes.fill(0x5b, 0xc2);
  scales.fill(0, 0x28);  // 2^-5
  const std::vector<float> x = normals(static_cast<size_t>(rows * columns));
  std::vector<float> out(static_cast<size_t>(rows * panels * 16));
  const Quantised q{quantised.data(), columns, precise, std::min(rows, Quantised::kTile)};
  for (int r = 0; r < rows; r++) k.quantise(x.data() + static_cast<int64_t>(r) * columns, q, r);
  int64_t turn = 0;
  const double seconds = best_seconds([&] {
    const int64_t copy = turn++ % copies;
    const Weight w{format, outputs, columns, codes.data() + copy * code_size, scales.data() + copy * scale_size, nullptr};
    k.linear(w, q, out.data(), panels * 16, rows, 0, static_cast<int>(panels));
    keep(out.data());
  });
  const double products = static_cast<double>(outputs) * columns * rows / seconds, bytes = static_cast<double>(one) / seconds;
  std::printf("linear %s%s %6d x %-5d %4d rows %9.1f us %7.1f GMAC/s %6.1f GB/s", format == Format::i4 ? "i4" : "i8", precise ? " 16-bit" : "       ", outputs, columns, rows,
              seconds * 1e6, products * 1e-9, bytes * 1e-9);
  if (rows == 1)
    std::printf("  %3.0f %% of memory", 100 * bytes / limits.read_bytes);
  else
    std::printf("  %3.0f %% of byte products", 100 * products * (precise ? 2 : 1) / limits.byte_products);
  std::puts("");
}

// One step's rows at the end of `depth` positions; one key-value head of 256, four query heads.
void bench_attend(const Kernels& k, const Limits& limits, int depth, int rows) {
  const AttendShape s{4, 1, 256, 0, 0.0625f};
  const int tile = rows * s.group(), pages = (depth + kPagePositions - 1) / kPagePositions;
  std::vector<std::vector<uint16_t>> memory(static_cast<size_t>(pages), std::vector<uint16_t>(static_cast<size_t>(s.page_head_elements()), 0x2e66));
  std::vector<uint16_t*> pointers;
  for (auto& page : memory) pointers.push_back(page.data());
  std::vector<float> queries = normals(static_cast<size_t>(tile * s.padded_dim())), scratch(static_cast<size_t>(tile * kPagePositions));
  std::vector<float> sums(queries.size()), part_sums(queries.size()), peaks(static_cast<size_t>(tile)), totals(peaks), part_peaks(peaks), part_totals(peaks);
  const Partial sum{sums.data(), peaks.data(), totals.data()}, part{part_sums.data(), part_peaks.data(), part_totals.data()};
  const double seconds = best_seconds([&] {
    for (int p = 0; p <= (depth - 1) / kPartition; p++) {
      k.attend_partition(queries.data(), s, 0, {pointers.data(), 0}, p, depth - rows, rows, p ? part : sum, scratch.data());
      if (p) k.join_partial(sum, part, tile, s.padded_dim());
    }
    keep(sums.data());
  });
  const double bytes = static_cast<double>(pages) * static_cast<double>(s.page_head_elements()) * 2 / seconds, products = 2.0 * depth * tile * s.head_dim / seconds;
  std::printf("attend depth %5d %3d rows x 4 heads %9.1f us %7.1f GMAC/s %6.1f GB/s  %3.0f %% of memory\n", depth, rows, seconds * 1e6, products * 1e-9, bytes * 1e-9,
              100 * bytes / limits.read_bytes);
}

// Row operations work in the cache: bytes a second read and written, for one row and another each time.
template <class Function>
void bench_rows(const char* name, const Limits& limits, int width, int arrays, Function&& f) {
  constexpr int kRows = 16;
  const double seconds = best_seconds([&] {
    for (int r = 0; r < kRows; r++) f(r);
  }) / kRows;
  const double bytes = 4.0 * width * arrays / seconds;
  std::printf("%-16s %5d wide %9.3f us a row %6.1f GB/s  %3.0f %% of memory\n", name, width, seconds * 1e6, bytes * 1e-9, 100 * bytes / limits.read_bytes);
}

void bench_row_operations(const Kernels& k, const Limits& limits) {
  for (int width : {1152, 6912}) {
    const std::vector<float> x = normals(static_cast<size_t>(16 * width)), weight = normals(static_cast<size_t>(width));
    std::vector<float> out(x.size());
    const auto row = [&](int r) { return x.data() + static_cast<int64_t>(r) * width; };
    for (bool precise : {false, true}) {
      Memory memory(Quantised::bytes(16, width, precise));
      const Quantised q{memory.data(), width, precise, Quantised::kTile};
      bench_rows(precise ? "quantise 16-bit" : "quantise", limits, width, 1, [&](int r) { k.quantise(row(r), q, r), keep(q.data); });
    }
    bench_rows("norm", limits, width, 2, [&](int r) { k.norm(row(r), weight.data(), width, width, 1e-6f, out.data() + static_cast<int64_t>(r) * width), keep(out.data()); });
    bench_rows("gelu_gate", limits, width, 3, [&](int r) { k.gelu_gate(row(r), row(15 - r), width, out.data() + static_cast<int64_t>(r) * width), keep(out.data()); });
    bench_rows("add", limits, width, 3, [&](int r) { k.add(row(r), row(15 - r), width, out.data() + static_cast<int64_t>(r) * width), keep(out.data()); });
  }
  const int width = 1024, vocabulary = 262144;
  const std::vector<float> x = normals(static_cast<size_t>(16 * width)), table = normals(256), logits = normals(static_cast<size_t>(vocabulary));
  std::vector<float> out(x.size()), values(64);
  std::vector<int32_t> ids(64);
  bench_rows("rope", limits, width, 2, [&](int r) { k.rope(x.data() + r * width, table.data(), width, 256, out.data() + r * width), keep(out.data()); });
  bench_rows("top_k of 64", limits, vocabulary, 1, [&](int) { k.top_k(logits.data(), vocabulary, 64, ids.data(), values.data()), keep(ids.data()); });
  bench_rows("log_sum_exp", limits, vocabulary, 1, [&](int) {
    const double total = k.log_sum_exp(logits.data(), vocabulary);
    keep(&total);
  });
}

}  // namespace

int main(int count, char** arguments) {
  const Kernels* k = find_kernels(count > 1 ? arguments[1] : "auto");
  if (!k) {
    std::fprintf(stderr, "no such instruction set here: portable, avx2, avx512, neon_dotprod and neon_i8mm are known\n");
    return 2;
  }
  const Limits limits = measure_limits(*k, 1, kLarge, 0.5);
  std::printf("%s, one thread; limits here: %.1f GB/s read from memory, %.0f GMAC/s of byte products\n", k->name, limits.read_bytes * 1e-9, limits.byte_products * 1e-9);
  const int shapes[][2] = {{1024, 1152}, {256, 1152}, {1152, 1024}, {6912, 1152}, {1152, 6912}};  // q, k and v, output, gate and up, down
  for (Format format : {Format::i4, Format::i8})
    for (int rows : {1, 8, 64, 256})
      for (const auto& shape : shapes) bench_linear(*k, limits, format, false, shape[0], shape[1], rows);
  for (int rows : {1, 8, 64}) bench_linear(*k, limits, Format::i8, true, 16384, 1152, rows);  // a part of the head
  for (int depth : {512, 2048, 32768})
    for (int rows : {1, 8}) bench_attend(*k, limits, depth, rows);
  bench_row_operations(*k, limits);
}
