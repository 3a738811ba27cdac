// The largest logits by way of a head's sketch: the same ids and bits as from the whole head, whatever the head and the input.
#include <array>
#include <memory>

#include "gemlet/program.h"
#include "matrices.h"

using namespace gemlet;

namespace {

constexpr int kColumns = 160, kBytes = 16, kNibbles = 64;  // the rest, 80 columns, has two bits; fine codes are padded to 256

std::vector<double> inverted(std::vector<double> a, int n) {
  std::vector<double> out(static_cast<size_t>(n) * n);
  const auto at = [n](std::vector<double>& m, int r, int c) -> double& { return m[static_cast<size_t>(r) * n + c]; };
  for (int i = 0; i < n; i++) at(out, i, i) = 1;
  for (int c = 0; c < n; c++) {
    int pivot = c;
    for (int r = c; r < n; r++)
      if (std::fabs(at(a, r, c)) > std::fabs(at(a, pivot, c))) pivot = r;
    for (int k = 0; k < n; k++) std::swap(at(a, c, k), at(a, pivot, k)), std::swap(at(out, c, k), at(out, pivot, k));
    const double factor = 1 / at(a, c, c);
    for (int k = 0; k < n; k++) at(a, c, k) *= factor, at(out, c, k) *= factor;
    for (int r = 0; r < n; r++)
      if (const double f = at(a, r, c); r != c && f != 0)
        for (int k = 0; k < n; k++) at(a, r, k) -= f * at(a, c, k), at(out, r, k) -= f * at(out, c, k);
  }
  return out;
}

// Made from the definition in head.h, in double.
struct Sketch {
  HeadSketch view;
  std::vector<uint8_t> panels, fine;
  std::vector<float> drops, inverse, steps, centres;

  Sketch(const Matrix& head, float coarseness, Random& random) {
    const int rows = head.weight().rows, n = kColumns;
    std::vector<double> in(static_cast<size_t>(n) * n);
    for (int r = 0; r < n; r++)
      for (int c = 0; c < n; c++) in[static_cast<size_t>(r) * n + c] = (r == c ? 8.0f : 0.0f) + static_cast<float>(random.between(-100, 100)) / 256.0f;
    const std::vector<double> m = inverted(in, n);
    inverse.resize(in.size());
    for (int r = 0; r < n; r++)
      for (int c = 0; c < n; c++) inverse[static_cast<size_t>((r / 16 * n + c) * 16 + r % 16)] = static_cast<float>(in[static_cast<size_t>(r) * n + c]);
    std::vector<double> a(static_cast<size_t>(rows) * n);
    double longest = 0, length_m = 0, length_in = 0;
    for (double v : m) length_m += v * v;
    for (double v : in) length_in += v * v;
    for (int r = 0; r < rows; r++) {
      double square = 0;
      for (int k = 0; k < n; k++) {
        const double w = head.value(r, k);
        square += w * w;
        for (int d = 0; d < n; d++) a[static_cast<size_t>(r) * n + d] += w * m[static_cast<size_t>(k) * n + d];
      }
      longest = std::max(longest, std::sqrt(square));
    }
    view.rows = rows, view.columns = n, view.bytes = kBytes, view.nibbles = kNibbles, view.fine_step = 0.13f;
    view.slack = static_cast<float>(1.01 * longest * ((4 * n / 32 + 8) * kUnit + 1e-10 + 4 * n * 0x1p-53 * std::sqrt(length_m * length_in)));
    for (int d = 0; d < n; d++) {
      double mean = 0, square = 0;
      for (int r = 0; r < rows; r++) mean += a[static_cast<size_t>(r) * n + d] / rows;
      for (int r = 0; r < rows; r++) square += std::pow(a[static_cast<size_t>(r) * n + d] - mean, 2) / rows;
      centres.push_back(static_cast<float>(mean));
      steps.push_back(static_cast<float>(std::sqrt(square) * (d < kBytes ? 0.04 : d < kBytes + kNibbles ? 0.37 : 1.15) * coarseness + 1e-30));
    }
    panels.assign(static_cast<size_t>(view.panel_count() * view.panel_bytes()), 0);
    fine.assign(static_cast<size_t>(rows * view.fine_bytes()), 0);
    for (int r = 0; r < rows; r++) encode(r, a.data() + static_cast<size_t>(r) * n);
    view.panels = panels.data(), view.fine = fine.data(), view.drops = drops.data();
    view.inverse = inverse.data(), view.steps = steps.data(), view.centres = centres.data();
  }
  Sketch(const Sketch&) = delete;

 private:
  void encode(int r, const double* a) {
    double square = 0, fine_square = 0;
    for (int d = 0; d < kColumns; d++) {
      const double step = steps[static_cast<size_t>(d)], most = view.most(d), value = a[d] - centres[static_cast<size_t>(d)];
      const int code = static_cast<int>(std::min(most, std::max(0.0, std::round(value / step + most / 2))));
      const double rest = value - (code - most / 2) * step, fine_step = static_cast<double>(view.fine_step) * step;
      const int finer = static_cast<int>(std::min(15.0, std::max(0.0, std::round(rest / fine_step + 7.5))));
      square += rest * rest;
      fine_square += std::pow(rest - (finer - 7.5) * fine_step, 2);
      place(r, d, code);
      fine[static_cast<size_t>(r * view.fine_bytes() + d / 128 * 64 + d % 64)] |= static_cast<uint8_t>(finer << (d % 128 / 64 * 4));
    }
    const float reach = static_cast<float>(std::sqrt(square) * (1 + 1e-6)), left = static_cast<float>(std::sqrt(fine_square) * (1 + 1e-6));
    std::memcpy(panels.data() + (r / 16 + 1) * view.panel_bytes() - 64 + r % 16 * 4, &reach, 4);
    drops.push_back(std::nextafter(reach - left, -kInfinity));
    view.largest = std::max(view.largest, reach);
  }
  void place(int r, int d, int code) {
    int line, byte = r % 16 * 4 + d % 4, bit = 0;
    if (d < kBytes) line = d / 4;
    else if (d < kBytes + kNibbles) line = kBytes / 4 + (d - kBytes) / 8, bit = (d - kBytes) % 8 / 4 * 4;
    else line = kBytes / 4 + kNibbles / 8 + (d - kBytes - kNibbles) / 16, bit = (d - kBytes - kNibbles) % 16 / 4 * 2;
    panels[static_cast<size_t>(r / 16 * view.panel_bytes() + line * 64 + byte)] |= static_cast<uint8_t>(code << bit);
  }
};

// Embedding and head alone: the logits of the token ids given.
struct HeadModel {
  Matrix embedding, head;
  std::shared_ptr<KvLayout> layout = std::make_shared<KvLayout>();
  ProgramSpec spec;

  HeadModel(Format format, int rows, Kind kind, Random& random) : embedding(Format::f32, rows, kColumns, Kind::random, random), head(format, rows, kColumns, kind, random) {
    layout->context = 1000;
    layout->layers = {{1, 1, 16, 0, 1.0f}};
    spec.max_rows = 8, spec.vocabulary = rows, spec.hidden = kColumns;
    spec.buffers = {kColumns, kColumns};
    spec.quantised = {{kColumns, true}};
    spec.matrices = {embedding.weight(), head.weight()};
    spec.instructions = {{Op::embed, Rows::all, 0, 0, 0, 0, 0, kColumns, 0, 1.0f},
                         {Op::select, Rows::logits, 1, 0, 0, 0, 0, kColumns, 0, 0},
                         {Op::quantise, Rows::logits, 0, 1, 0, 0, 0, kColumns, 0, 0},
                         {Op::linear, Rows::logits, kLogitsOut, 0, 0, 1, 0, rows, 0, 0}};
  }
  uint8_t* codes(const Matrix& m) { return const_cast<uint8_t*>(m.weight().codes); }
};

struct Ranked {
  std::vector<int32_t> ids;
  std::vector<float> values;
};

// `share`: of 256, how many ids are allowed in a row; 0 for one id alone, below 0 for no list at all. Panels without any occur.
std::vector<uint16_t> allowed_words(const HeadModel& model, int rows, int share) {
  Random random(static_cast<uint32_t>(share) + 77);
  const int panels = (model.spec.vocabulary + 15) / 16;
  std::vector<uint16_t> words(static_cast<size_t>(share < 0 ? 0 : rows * panels));
  for (int r = 0; r < rows && share == 0; r++) words[static_cast<size_t>(r * panels + 1)] = static_cast<uint16_t>(1 << r % 16);
  for (uint16_t& word : words)
    if (share > 0 && random.between(0, 3) > 0)
      for (int i = 0; i < 16; i++) word = static_cast<uint16_t>(word | (random.between(0, 255) < share) << i);
  return words;
}

Ranked largest(Program& program, const HeadModel& model, const std::vector<int32_t>& tokens, int top, int share = -1) {
  KvState state(model.layout);
  const int rows = static_cast<int>(tokens.size());
  std::vector<int32_t> positions, wanted;
  for (int i = 0; i < rows; i++) positions.push_back(i), wanted.push_back(i);
  std::vector<float> logits(static_cast<size_t>(rows * program.logits_stride()));
  Ranked out{std::vector<int32_t>(static_cast<size_t>(rows * std::max(top, 0))), std::vector<float>(static_cast<size_t>(rows * std::max(top, 0)))};
  const std::vector<uint16_t> allowed = allowed_words(model, rows, share);
  const auto step = [&](int count) {
    return Step{tokens.data(), positions.data(), rows, {&state}, {rows}, wanted.data(), rows, nullptr, 0, logits.data(), nullptr, {}, count, out.ids.data(), out.values.data(), allowed.empty() || count == 0 ? nullptr : allowed.data()};
  };
  program.run(step(top));
  state.trim(0);
  std::vector<int32_t> ids(static_cast<size_t>(top));
  std::vector<float> values(static_cast<size_t>(top));
  program.run(step(0));
  for (int r = 0; r < rows; r++) {
    const float* row = logits.data() + r * program.logits_stride();
    bool finite = true;
    for (int i = 0; i < model.spec.vocabulary; i++) finite &= std::isfinite(row[i]);
    for (int i = 0; i < top && !finite; i++) CHECK(!std::isfinite(out.values[static_cast<size_t>(r * top + i)]));
    if (!finite) continue;
    std::vector<Candidate> all;
    for (int i = 0; i < model.spec.vocabulary; i++)
      if (is_allowed(allowed.empty() ? nullptr : allowed.data() + r * ((model.spec.vocabulary + 15) / 16), i)) all.push_back({row[i], i});
    std::sort(all.begin(), all.end(), better);
    all.resize(std::max(all.size(), static_cast<size_t>(top)), {-kInfinity, -1});
    for (int i = 0; i < top; i++) {
      CHECK_WITH(out.ids[static_cast<size_t>(r * top + i)] == all[static_cast<size_t>(i)].id, program.kernels().name, top, r, i);
      CHECK_WITH(same_bits(&out.values[static_cast<size_t>(r * top + i)], &all[static_cast<size_t>(i)].value, 1), program.kernels().name, top, r, i);
    }
  }
  return out;
}

HeadCounts check_model(const HeadModel& model, const Sketch& sketch, const std::vector<int32_t>& tokens) {
  HeadCounts sum;
  for (const Kernels* kernels : all_kernels())
    for (int threads : {1, 3}) {
      Program program(model.spec, model.layout, *kernels, threads);
      for (int top : {1, 5, 40}) largest(program, model, tokens, top);
      CHECK(program.take_head_counts().queries == 0);
      for (int share : {0, 3, 200}) largest(program, model, tokens, 5, share);
      program.set_head(sketch.view);
      for (int top : {1, 5, 40}) largest(program, model, tokens, top);
      const HeadCounts c = program.take_head_counts();
      CHECK_WITH(c.queries + c.whole == (tokens.size() <= Program::kSketchRows ? 3 * static_cast<int64_t>(tokens.size()) : 0), c.queries, c.whole);
      for (int share : {0, 3, 200})
        for (int top : {1, 5}) largest(program, model, tokens, top, share);
      program.take_head_counts();
      sum.queries += c.queries, sum.whole += c.whole, sum.doubtful += c.doubtful, sum.likely += c.likely, sum.panels += c.panels;
    }
  return sum;
}

void same_as_whole_head(Random& random) {
  for (Format format : {Format::i4, Format::i8, Format::i8h})
    for (int rows : {50, 1003}) {
      const HeadModel model(format, rows, Kind::random, random);
      const Sketch sketch(model.head, 1, random), useless(model.head, 50, random);
      const HeadCounts good = check_model(model, sketch, {7, 49}), bad = check_model(model, useless, {3});
      CHECK_WITH(good.whole == 0 && bad.whole == 0, good.whole);
      CHECK_WITH(good.likely <= good.doubtful && good.queries * rows > good.doubtful, good.doubtful, good.likely);  // it leaves something out
      check_model(model, sketch, {0, 1, 2});  // more rows than sketches are used for
    }
}

void hostile_heads(Random& random) {
  HeadModel equal(Format::i8, 517, Kind::random, random);  // every row the same: all tie
  const int64_t panel = equal.head.weight().blocks() * int64_t{512};
  for (int64_t p = 0; p < equal.head.weight().panels(); p++)
    for (int64_t i = 0; i < panel; i++) equal.codes(equal.head)[p * panel + i] = static_cast<uint8_t>(100 + i / 64 * 3 + i % 4);
  std::memset(const_cast<uint8_t*>(equal.head.weight().scales), 0x24, static_cast<size_t>(equal.head.weight().panels() * equal.head.weight().blocks() * 32));
  check_model(equal, Sketch(equal.head, 1, random), {1, 500});

  HeadModel pairs(Format::i8, 512, Kind::random, random);  // the second half repeats the first: ties at every place of the order
  std::memcpy(pairs.codes(pairs.head) + 16 * panel, pairs.head.weight().codes, static_cast<size_t>(16 * panel));
  std::memcpy(const_cast<uint8_t*>(pairs.head.weight().scales) + 16 * 32 * pairs.head.weight().blocks(), pairs.head.weight().scales, static_cast<size_t>(16 * 32 * pairs.head.weight().blocks()));
  check_model(pairs, Sketch(pairs.head, 1, random), {300, 511});

  const HeadModel huge(Format::i8, 400, Kind::extreme, random);  // scales of any size a half can have, both signs
  check_model(huge, Sketch(huge.head, 1, random), {17, 399});
}

void hostile_inputs(Random& random) {
  HeadModel model(Format::i8, 300, Kind::random, random);
  const Sketch sketch(model.head, 1, random);
  float* table = reinterpret_cast<float*>(model.codes(model.embedding));
  const auto fill = [&](int id, auto value) {
    for (int k = 0; k < kColumns; k++) table[(id / 16 * kColumns + k) * 16 + id % 16] = value(k);
  };
  fill(0, [](int) { return 0.0f; });                                     // every logit is zero
  fill(1, [](int k) { return k == 5 ? std::nanf("") : 1.0f; });
  fill(2, [](int k) { return k == 9 ? kInfinity : 0.5f; });
  fill(3, [](int k) { return k == 3 ? 1e30f : 1.0f; });
  fill(4, [](int k) { return k % 2 ? 1e-33f : 1e-40f; });
  fill(5, [](int k) { return k == 100 ? 1.0f : 0.0f; });
  for (int id = 0; id < 6; id++) check_model(model, sketch, {id});
  check_model(model, sketch, {5, 1});
  check_model(model, sketch, {0, 299});
}

void refuses_what_does_not_fit(Random& random) {
  const HeadModel model(Format::i8, 100, Kind::random, random), other(Format::i8, 99, Kind::random, random), minima(Format::i8m, 100, Kind::random, random);
  const Sketch sketch(model.head, 1, random);
  const Kernels& kernels = *find_kernels("portable");
  Program program(model.spec, model.layout, kernels, 1), smaller(other.spec, other.layout, kernels, 1), with_min(minima.spec, minima.layout, kernels, 1);
  CHECK_THROWS(std::invalid_argument, smaller.set_head(sketch.view));
  CHECK_THROWS(std::invalid_argument, with_min.set_head(sketch.view));
  const auto refused = [&](auto change) {
    HeadSketch s = sketch.view;
    change(s);
    CHECK_THROWS(std::invalid_argument, program.set_head(s));
  };
  refused([](HeadSketch& s) { s.bytes = 8; });
  refused([](HeadSketch& s) { s.nibbles = 160; });
  refused([](HeadSketch& s) { s.slack = std::nanf(""); });
  refused([](HeadSketch& s) { s.largest = -1; });
  std::vector<float> steps(kColumns, std::nanf(""));
  refused([&](HeadSketch& s) { s.steps = steps.data(); });
  CHECK_THROWS(std::invalid_argument, largest(program, model, {0}, 101));
  program.set_head(sketch.view);
  largest(program, model, {0}, 100);
}

}  // namespace

int main() {
  Random random(5);
  same_as_whole_head(random);
  hostile_heads(random);
  hostile_inputs(random);
  refuses_what_does_not_fit(random);
}
