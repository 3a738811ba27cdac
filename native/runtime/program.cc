#include "gemlet/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <set>
#include <stdexcept>

namespace gemlet {
namespace {

// Matrix products are split over their outputs; attention over rows, heads and partitions. All else is split over rows.
bool is_spread(Op op) { return op == Op::linear || op == Op::attend; }

template <class T>
std::unique_ptr<T, void (*)(void*)> allocate(int64_t count) {
  const size_t bytes = static_cast<size_t>(round_up(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T)), 64));
  void* memory = std::aligned_alloc(64, bytes);
  if (!memory) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return {static_cast<T*>(memory), std::free};
}

// From so many rows a thread on, each thread computes its own rows from one end of a layer to the other, so that what one writes it reads
// again itself: handing a row's values to another core costs more than reading the weights once for each thread.
constexpr int kManyRows = 48;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

Program::Program(ProgramSpec spec, std::shared_ptr<const KvLayout> layout, const Kernels& kernels, int threads)
    : spec_(std::move(spec)),
      layout_(std::move(layout)),
      kernels_(kernels),
      pool_(threads),
      next_(spec_.instructions.size() * static_cast<size_t>(pool_.size())),
      scratch_(static_cast<size_t>(pool_.size())),
      next_side_(spec_.instructions.size()),
      sides_done_(spec_.instructions.size()),
      head_scratch_(static_cast<size_t>(pool_.size())),
      seconds_(kOps) {
  check();
  for (int width : spec_.buffers) {
    const int64_t stride = round_up(width, 16);
    buffers_.push_back({allocate<float>(stride * spec_.max_rows), stride});
  }
  for (const QuantisedBuffer& q : spec_.quantised) quantised_.push_back(allocate<uint8_t>(Quantised::bytes(spec_.max_rows, q.columns, q.precise)));
  for (const auto& frequencies : spec_.rotations) {
    const int64_t stride = round_up(2 * static_cast<int64_t>(frequencies.size()), 16);
    rotations_.push_back({allocate<float>(stride * spec_.max_rows), stride});
  }
  logits_stride_ = round_up(spec_.vocabulary, 16);
  hidden_stride_ = round_up(spec_.hidden, 16);
  place_barriers();
}

// Within a run of row operations a thread meets only its own rows, and within a run of spread ones only what was there before:
// a barrier is needed where the kind or the set of rows changes, or where a spread operation reads what its run wrote.
void Program::place_barriers() {
  std::set<int> written, adapted;  // float buffers that the run so far writes, and that its side products read
  for (size_t i = 0; i < spec_.instructions.size(); i++) {
    const Instruction& in = spec_.instructions[i];
    bool barrier = i == 0;
    if (i > 0) {
      const Instruction& before = spec_.instructions[i - 1];
      barrier = is_spread(in.op) != is_spread(before.op) || in.rows != before.rows || in.op == Op::attend || before.op == Op::attend;
      if (in.op == Op::linear && is_dense(spec_.matrices[static_cast<size_t>(in.weight)].format) && written.count(in.a)) barrier = true;
      if (in.op == Op::linear && (written.count(in.b) || adapted.count(in.out))) barrier = true;
    }
    if (barrier) {
      written.clear();
      adapted.clear();
    }
    if (in.op == Op::linear) {
      written.insert(in.out);
      adapted.insert(in.b);
    }
    barrier_before_.push_back(barrier);
  }
}

int Program::row_count(const Step& step, Rows rows) const { return rows == Rows::all ? step.rows : rows == Rows::logits ? step.logits : step.hidden; }

int64_t Program::stride(int buffer) const { return buffer == kLogitsOut ? logits_stride_ : buffer == kHiddenOut ? hidden_stride_ : buffers_[static_cast<size_t>(buffer)].stride; }

float* Program::row(int buffer, int row) const {
  float* first = buffer == kLogitsOut ? logits_out_ : buffer == kHiddenOut ? hidden_out_ : buffers_[static_cast<size_t>(buffer)].data.get();
  return first + row * stride(buffer);
}

Quantised Program::codes(int buffer, int rows) const {
  const QuantisedBuffer& q = spec_.quantised[static_cast<size_t>(buffer)];
  return {quantised_[static_cast<size_t>(buffer)].get(), q.columns, q.precise, std::min(rows, Quantised::kTile)};
}

bool Program::has_own_rows(int rows) const { return pool_.size() > 1 && rows >= kManyRows * pool_.size(); }

Program::RowRange Program::share(int rows, int thread) const {
  const int unit = has_own_rows(rows) ? Quantised::kTile : 1, units = (rows + unit - 1) / unit;
  return {std::min(rows, units * thread / pool_.size() * unit), std::min(rows, units * (thread + 1) / pool_.size() * unit)};
}

void Program::run(const Step& step) {
  check_step(step);
  for (size_t s = 0; s < step.states.size(); s++) step.states[s]->reserve(step.state_rows[s]);
  if (step.top > 0) top_logits_.resize(std::max(top_logits_.size(), static_cast<size_t>(step.logits * logits_stride_)));
  logits_out_ = step.top > 0 ? top_logits_.data() : step.logits_out;
  hidden_out_ = step.hidden_out;
  plan_attention(step);
  plan_sides(step);
  for (auto& next : next_) next.store(0, std::memory_order_relaxed);
  pool_.run([&](int thread) { run_thread(step, thread); });
  for (size_t s = 0; s < step.states.size(); s++) step.states[s]->advance(step.state_rows[s]);
}

void Program::run_thread(const Step& step, int thread) {
  fill_rotations(step, thread);
  const bool measuring = measuring_ && thread == 0;
  double before = measuring ? now() : 0;
  const auto count = [&](Op op) {
    if (!measuring) return;
    const double after = now();
    seconds_[static_cast<size_t>(op)] += after - before;
    before = after;
  };
  for (size_t i = 0, end; i < spec_.instructions.size(); i = end) {
    const Instruction& in = spec_.instructions[i];
    if (barrier_before_[i]) pool_.barrier();
    end = i + 1;
    if (is_spread(in.op)) {
      if (row_count(step, in.rows) > 0) {
        if (in.op == Op::attend)
          run_attend(in, step, next_[i * static_cast<size_t>(pool_.size())], thread);
        else if (in.out == kLogitsOut && step.top > 0)
          run_head(i, step, thread);
        else
          run_linear(i, step, thread);
      }
      count(in.op);
      continue;
    }
    // A run of row operations takes one row after the other through all of them: what one leaves is still near for the next.
    while (end < spec_.instructions.size() && !barrier_before_[end]) end++;
    const RowRange mine = share(row_count(step, in.rows), thread);
    StateCursor state;
    for (int r = mine.begin; r < mine.end; r++)
      for (size_t j = i; j < end; j++) {
        run_row(spec_.instructions[j], step, r, state);
        count(spec_.instructions[j].op);
      }
  }
}

void Program::fill_rotations(const Step& step, int thread) {
  const RowRange mine = share(step.rows, thread);
  for (size_t t = 0; t < rotations_.size(); t++) {
    const std::vector<float>& frequencies = spec_.rotations[t];
    const size_t half = frequencies.size();
    for (int r = mine.begin; r < mine.end; r++) {
      float* out = rotations_[t].data.get() + r * rotations_[t].stride;
      for (size_t i = 0; i < half; i++) {
        const float angle = static_cast<float>(step.positions[r]) * frequencies[i];
        out[i] = static_cast<float>(std::cos(static_cast<double>(angle)));
        out[half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
      }
    }
  }
}

void Program::run_row(const Instruction& in, const Step& step, int r, StateCursor& state) {
  switch (in.op) {
    case Op::embed: kernels_.embed(spec_.matrices[static_cast<size_t>(in.weight)], step.ids[r], in.value, row(in.out, r)); break;
    case Op::norm: kernels_.norm(row(in.a, r), spec_.vectors[static_cast<size_t>(in.weight)].data(), in.width, in.group, in.value, row(in.out, r)); break;
    case Op::add: kernels_.add(row(in.a, r), row(in.b, r), in.width, row(in.out, r)); break;
    case Op::gelu_gate: kernels_.gelu_gate(row(in.a, r), row(in.b, r), in.width, row(in.out, r)); break;
    case Op::silu_gate: kernels_.silu_gate(row(in.a, r), row(in.b, r), in.width, row(in.out, r)); break;
    case Op::add_bias: kernels_.add(row(in.a, r), spec_.vectors[static_cast<size_t>(in.weight)].data(), in.width, row(in.out, r)); break;
    case Op::rope: {
      const FloatBuffer& table = rotations_[static_cast<size_t>(in.weight)];
      kernels_.rope(row(in.a, r), table.data.get() + r * table.stride, in.width, in.group, row(in.out, r));
      break;
    }
    case Op::quantise: kernels_.quantise(row(in.a, r), codes(in.out, row_count(step, in.rows)), r); break;
    case Op::store_key_value: {
      while (r >= state.end) state.end += step.state_rows[++state.index];
      const int position = step.positions[r];
      kernels_.store_key_value(row(in.a, r), row(in.b, r), layout_->layers[static_cast<size_t>(in.layer)], step.states[state.index]->page(in.layer, position), position % kPagePositions);
      break;
    }
    case Op::select: {
      const int from = in.rows == Rows::logits ? step.logit_rows[r] : step.hidden_rows[r];
      std::memcpy(row(in.out, r), row(in.a, from), sizeof(float) * static_cast<size_t>(in.width));
      break;
    }
    default: break;  // spread operations do not come here
  }
}

void Program::run_linear(size_t instruction, const Step& step, int thread) {
  const Instruction& in = spec_.instructions[instruction];
  const Weight& w = spec_.matrices[static_cast<size_t>(in.weight)];
  const int rows = row_count(step, in.rows), panels = w.panels(), threads = pool_.size();
  const bool own_rows = has_own_rows(rows);
  // Small tasks even out what the threads lose to others, and at the end none waits long; even numbers of panels keep the tiles whole.
  // With few rows a task is soon done, and long streams through memory are read fastest.
  const int grain = own_rows ? 4 : static_cast<int>(round_up(std::max(1, panels / (threads * 6)), 4));
  if (barrier_before_[instruction]) start_sides(instruction, thread);
  for (int turn = 0; turn < (own_rows ? threads : 1); turn++) {  // one's own rows first, then what others have not come to
    const int owner = own_rows ? (thread + turn) % threads : 0;
    const RowRange part = own_rows ? share(rows, owner) : RowRange{0, rows};
    std::atomic<int>& next = next_[instruction * static_cast<size_t>(threads) + static_cast<size_t>(owner)];
    for (int begin; (begin = next.fetch_add(grain, std::memory_order_relaxed)) < panels;) {
      const int end = std::min(panels, begin + grain);
      if (is_dense(w.format))
        kernels_.linear_dense(w, row(in.a, part.begin), stride(in.a), row(in.out, part.begin), stride(in.out), part.end - part.begin, begin, end);
      else
        kernels_.linear(w, codes(in.a, rows).from(part.begin), row(in.out, part.begin), stride(in.out), part.end - part.begin, begin, end);
      if (has_side(instruction)) add_sides(instruction, part, begin, end, thread);
    }
  }
}

std::vector<double> Program::take_seconds() {
  std::vector<double> taken(kOps);
  taken.swap(seconds_);
  return taken;
}

}  // namespace gemlet
