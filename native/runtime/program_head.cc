// The largest logits of a row without the whole head: its sketch proves which rows cannot be among them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "gemlet/program.h"

namespace gemlet {

// What each rounding can do to an upper bound, all added up:
// - y's codes: code[d] - zero[d] is at most zero[d], so sum zero[d] |step[d] y[d] - scale X[d]| (and 7.5 fine steps of each for fine codes);
// - float arithmetic: fewer than 16 roundings of 2^-24 of values no larger than the sum of magnitudes;
// - `slack` |x|: y itself, M, and the head's own roundings, bounded where the sketch is made.
void HeadQuery::prepare(const HeadSketch& s, const double* y, double x_length) {
  const size_t padded = static_cast<size_t>(round_up(s.columns, 128));
  high.assign(padded, 0);
  low.assign(padded, 0);
  double most = 0, square = 0, centre = 0;
  for (int d = 0; d < s.columns; d++) {
    most = std::max(most, std::fabs(s.steps[d] * y[d]));
    square += y[d] * y[d];
    centre += s.centres[d] * y[d];
  }
  // Beyond these, floats could overflow or codes lose their scale; NaN is neither.
  usable = most >= 1e-15 && most <= 1e20 && square <= 1e30 && x_length <= 1e20;
  if (!usable) return;
  scale = static_cast<float>(most / 32000);
  double zeros = 0, sum = 0, errors = 0, fine_errors = 0, magnitude = 0;
  for (int d = 0; d < s.columns; d++) {
    const double exact = s.steps[d] * y[d], zero = s.most(d) / 2.0;
    const int code = static_cast<int>(std::lrint(exact / scale)), upper = (code + 128) >> 8;
    high[static_cast<size_t>(d)] = static_cast<int8_t>(upper);
    low[static_cast<size_t>(d)] = static_cast<int8_t>(code - 256 * upper);
    zeros += zero * code;
    sum += code;
    errors += zero * std::fabs(exact - static_cast<double>(scale) * code);
    fine_errors += std::fabs(exact - static_cast<double>(scale) * code);
    magnitude += std::abs(code) * (s.most(d) + 15.0 * s.fine_step);
  }
  reach = static_cast<float>(std::sqrt(square) * (1 + 1e-6));
  magnitude = magnitude * scale + std::fabs(centre) + 2.0 * s.largest * reach;
  const double slop = errors + 7.5 * s.fine_step * fine_errors + 0x1p-20 * magnitude + s.slack * x_length;
  usable = magnitude + slop <= 1e30;
  if (!usable) return;
  offset = static_cast<float>(centre - scale * zeros + slop * (1 + 1e-6));
  fine_scale = s.fine_step * scale;
  fine_offset = static_cast<float>(-7.5 * s.fine_step * scale * sum);
}

void Program::set_head(const HeadSketch& s) {
  const auto require = [](bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(std::string("head sketch: ") + what);
  };
  const Instruction& in = spec_.instructions.back();
  require(in.op == Op::linear && in.out == kLogitsOut, "the program does not end with the head");
  const Weight& w = spec_.matrices[static_cast<size_t>(in.weight)];
  require(!is_dense(w.format) && !has_min(w.format) && spec_.quantised[static_cast<size_t>(in.a)].precise, "the head has another format");
  require(s.rows == w.rows && s.columns == w.columns, "the head has another shape");
  require(s.bytes >= 0 && s.nibbles >= 0 && s.bytes % 16 == 0 && s.nibbles % 16 == 0 && s.columns % 16 == 0 && s.bytes <= s.columns && s.nibbles <= s.columns - s.bytes, "its parts do not add up");
  int64_t most = 0, fine = 0;
  for (int d = 0; d < s.columns; d++) most += 32000LL * s.most(d), fine += 32000LL * 15;
  require(most < INT32_MAX && fine < INT32_MAX, "its sums could overflow");
  const auto is_bound = [](float v) { return v >= 0 && v < 1e12f; };  // products of two stay finite
  require(is_bound(s.slack) && is_bound(s.largest) && s.fine_step >= 0 && s.fine_step <= 1, "impossible bounds");
  for (int d = 0; d < s.columns; d++) require(is_bound(s.steps[d]) && is_bound(std::fabs(s.centres[d])), "impossible steps");
  head_ = s;
  panel_done_ = std::vector<std::atomic<uint8_t>>(static_cast<size_t>(s.panel_count()));
  bounds_.resize(static_cast<size_t>(s.panel_count()) * kPanel);
  projected_.resize(static_cast<size_t>(s.columns));
}

// Every thread calls it. The logits that the largest are chosen from lie in logits_out_.
void Program::run_head(size_t instruction, const Step& step, int thread) {
  const bool whole = head_.rows == 0 || step.top > std::min(head_.top, head_.rows) || step.logits > kSketchRows;
  if (whole) {
    run_linear(instruction, step, thread);
    pool_.barrier();
    for (int r = step.logits * thread / pool_.size(); r < step.logits * (thread + 1) / pool_.size(); r++) choose_whole(step, r);
    return;
  }
  for (int r = 0; r < step.logits; r++) {
    if (r > 0) pool_.barrier();  // until the row before is chosen
    sketch_row(spec_.instructions[instruction], step, r, thread);
  }
}

void Program::choose_whole(const Step& step, int row) {
  const int64_t at = static_cast<int64_t>(row) * step.top;
  float* logits = logits_out_ + row * logits_stride_;
  // What is no number wins no comparison: one such logit fills the row, to be seen.
  bool finite = true;
  for (int i = 0; i < spec_.vocabulary; i++) finite &= std::fabs(logits[i]) <= std::numeric_limits<float>::max();
  if (!finite) {
    const float* bad = std::find_if_not(logits, logits + spec_.vocabulary, [](float v) { return std::isfinite(v); });
    std::fill_n(step.top_ids + at, step.top, static_cast<int32_t>(bad - logits));
    std::fill_n(step.top_values + at, step.top, *bad);
    return;
  }
  const uint16_t* allowed = allowed_of(step, row);
  if (allowed)
    for (int i = 0; i < spec_.vocabulary; i++)
      if (!is_allowed(allowed, i)) logits[i] = -std::numeric_limits<float>::infinity();
  kernels_.top_k(logits, spec_.vocabulary, step.top, step.top_ids + at, step.top_values + at);
  for (int i = 0; allowed && i < step.top; i++)
    if (step.top_values[at + i] == -std::numeric_limits<float>::infinity()) step.top_ids[at + i] = -1;
}

// The bits of a row of logits, null where all tokens are allowed.
const uint16_t* Program::allowed_of(const Step& step, int row) const { return step.allowed ? step.allowed + static_cast<int64_t>(row) * (logits_stride_ / kPanel) : nullptr; }

// The rows of a task when `count` of them are dealt out from a shared counter.
template <class Function>
static void each_task(std::atomic<int>& next, int count, int grain, Function f) {
  for (int begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < count;) f(begin, std::min(count, begin + grain));
}

void Program::sketch_row(const Instruction& in, const Step& step, int row, int thread) {
  const int threads = pool_.size(), panels = head_.panel_count(), grain = std::max(1, std::min(256, panels / (threads * 8)));
  Quantised x = codes(in.a, step.logits);
  x.data = x.row(row);  // the row alone, where it lies
  HeadScratch& own = head_scratch_[static_cast<size_t>(thread)];
  own.best.clear();
  own.likely.clear();
  own.x.resize(static_cast<size_t>(head_.columns));
  double square = 0;
  for (int b = 0; b < x.blocks(); b++) {
    const PreciseBlock& block = *reinterpret_cast<const PreciseBlock*>(x.data + b * x.stride());
    for (int i = 0; i < kBlock; i++) {
      const double value = static_cast<double>(block.high.scale) * (256 * block.high.codes[i] + block.low[i]);
      own.x[static_cast<size_t>(b * kBlock + i)] = value;
      square += value * value;
    }
  }
  if (thread == 0) head_next_[0] = head_next_[1] = 0;
  const int groups = head_.columns / kPanel;
  kernels_.head_project(head_, own.x.data(), projected_.data(), groups * thread / threads, groups * (thread + 1) / threads);
  pool_.barrier();
  own.query.prepare(head_, projected_.data(), std::sqrt(square));
  float* logits = logits_out_ + row * logits_stride_;
  if (!own.query.usable) {  // the same for every thread
    if (thread == 0) head_counts_.whole++;
    kernels_.linear(spec_.matrices[static_cast<size_t>(in.weight)], x, logits, logits_stride_, 1, panels * thread / threads, panels * (thread + 1) / threads);
    pool_.barrier();
    if (thread == 0) choose_whole(step, row);
    return;
  }
  const uint16_t* allowed = allowed_of(step, row);
  each_task(head_next_[0], panels, grain, [&](int begin, int end) { kernels_.head_scan(head_, own.query, allowed, begin, end, bounds_.data(), step.top, own.best); });
  pool_.barrier();
  own.seeds.clear();
  for (const HeadScratch& s : head_scratch_) own.seeds.insert(own.seeds.end(), s.best.begin(), s.best.end());
  const size_t count = std::min(own.seeds.size(), static_cast<size_t>(step.top));  // fewer only where fewer are allowed: then they are all
  std::partial_sort(own.seeds.begin(), own.seeds.begin() + static_cast<std::ptrdiff_t>(count), own.seeds.end(), better);
  own.seeds.resize(count);
  for (size_t i = static_cast<size_t>(thread); i < own.seeds.size(); i += static_cast<size_t>(threads)) compute_panel(in, x, logits, own.seeds[i].id / kPanel, own);
  pool_.barrier();
  // The least of `top` logits that are known: nothing smaller can be among the largest.
  float least = std::numeric_limits<float>::infinity();
  for (const Candidate& seed : own.seeds) least = std::min(least, logits[seed.id]);
  own.doubtful = 0;
  if (count == static_cast<size_t>(step.top)) each_task(head_next_[1], panels, grain, [&](int begin, int end) { own.doubtful += kernels_.head_doubts(head_, own.query, bounds_.data(), least, begin, end, own.likely); });
  for (int32_t id : own.likely) compute_panel(in, x, logits, id / kPanel, own);
  pool_.barrier();
  if (thread == 0) choose_computed(step, row);
}

void Program::compute_panel(const Instruction& in, const Quantised& x, float* logits, int panel, HeadScratch& own) {
  if (panel_done_[static_cast<size_t>(panel)].exchange(1, std::memory_order_relaxed)) return;
  own.panels.push_back(panel);
  kernels_.linear(spec_.matrices[static_cast<size_t>(in.weight)], x, logits, logits_stride_, 1, panel, panel + 1);
}

void Program::choose_computed(const Step& step, int row) {
  const float* logits = logits_out_ + row * logits_stride_;
  const uint16_t* allowed = allowed_of(step, row);
  std::vector<Candidate>& found = head_scratch_[0].seeds;
  found.clear();
  head_counts_.queries++;
  for (HeadScratch& s : head_scratch_) {
    for (int panel : s.panels) {
      panel_done_[static_cast<size_t>(panel)].store(0, std::memory_order_relaxed);
      for (int i = panel * kPanel; i < std::min(head_.rows, (panel + 1) * kPanel); i++)
        if (is_allowed(allowed, i)) found.push_back({logits[i], i});
    }
    head_counts_.doubtful += s.doubtful;
    head_counts_.likely += static_cast<int64_t>(s.likely.size());
    head_counts_.panels += static_cast<int64_t>(s.panels.size());
    s.panels.clear();
  }
  std::partial_sort(found.begin(), found.begin() + std::min<std::ptrdiff_t>(step.top, static_cast<std::ptrdiff_t>(found.size())), found.end(), better);
  found.resize(std::max(found.size(), static_cast<size_t>(step.top)), {-std::numeric_limits<float>::infinity(), -1});
  for (int i = 0; i < step.top; i++) {
    step.top_ids[static_cast<int64_t>(row) * step.top + i] = found[static_cast<size_t>(i)].id;
    step.top_values[static_cast<int64_t>(row) * step.top + i] = found[static_cast<size_t>(i)].value;
  }
}

}  // namespace gemlet
