// The side products of adapters. A run of products that share a barrier first has all its x · Aᵀ computed, then every task of a
// product adds (x · Aᵀ) · Bᵀ to the panels it has just written, waiting for x · Aᵀ only where it is not complete by then: there is no
// barrier between. A step without adapters does none of this.
//
// One element is, whatever surrounds it: for each chunk of columns a sum in ascending order; the chunks added up in order, times the
// scale; their products with B added to the base product in ascending order.
#include <algorithm>
#include <thread>

#include "gemlet/program.h"

namespace gemlet {
namespace {

constexpr int kSideColumns = 1024;  // summed on their own, so that threads can share a narrow product
constexpr int kSideRows = 48;       // of one task, or of one product with B: what they read stays in the cache

int chunks(const LowRank& part) { return (part.a.columns + kSideColumns - 1) / kSideColumns; }

}  // namespace

void Program::plan_sides(const Step& step) {
  sides_.clear();
  if (std::all_of(step.adapters.begin(), step.adapters.end(), [](const Adapter* adapter) { return !adapter; })) return;
  first_side_.clear();
  int64_t at = 0, most = 0;
  int widest = 0;
  for (size_t i = 0; i < spec_.instructions.size(); i++) {
    first_side_.push_back(sides_.size());
    if (barrier_before_[i]) at = 0;
    const Instruction& in = spec_.instructions[i];
    if (in.op != Op::linear) continue;
    int row = 0;
    for (size_t s = 0; s < step.states.size(); row += step.state_rows[s++]) {
      const LowRank* part = step.adapters[s] ? step.adapters[s]->part(in.weight) : nullptr;
      if (!part) continue;
      const bool joins = sides_.size() > first_side_[i] && sides_.back().part == part && sides_.back().row + sides_.back().rows == row;
      if (joins)
        sides_.back().rows += step.state_rows[s];
      else
        sides_.push_back({part, row, step.state_rows[s], at});
      at += static_cast<int64_t>(chunks(*part)) * step.state_rows[s] * part->stride();
      widest = std::max(widest, part->stride());
    }
    most = std::max(most, at);
  }
  first_side_.push_back(sides_.size());
  const auto grow = [](std::vector<float>& to, int64_t count) { to.resize(std::max(to.size(), static_cast<size_t>(count))); };
  grow(side_sums_, most);
  for (Scratch& scratch : scratch_) grow(scratch.side_rows, static_cast<int64_t>(kSideRows) * widest);
  for (auto& next : next_side_) next.store(0, std::memory_order_relaxed);
  for (auto& done : sides_done_) done.store(0, std::memory_order_relaxed);
}

// This thread's share of all x · Aᵀ of the run of products that begins here.
void Program::start_sides(size_t instruction, int thread) {
  if (sides_.empty()) return;
  size_t end = instruction + 1;
  while (end < spec_.instructions.size() && spec_.instructions[end].op == Op::linear && !barrier_before_[end]) end++;
  int task = 0, mine = next_side_[instruction].fetch_add(1, std::memory_order_relaxed);
  for (size_t i = instruction; i < end; i++) {
    const int input = spec_.instructions[i].b;
    for (size_t s = first_side_[i]; s < first_side_[i + 1]; s++) {
      const Side& side = sides_[s];
      const Weight& a = side.part->a;
      for (int chunk = 0; chunk < chunks(*side.part); chunk++)
        for (int panel = 0; panel < a.panels(); panel++)
          for (int r = 0; r < side.rows; r += kSideRows, task++) {
            if (task != mine) continue;
            const int first = chunk * kSideColumns, columns = std::min(kSideColumns, a.columns - first);
            float* sums = side_sums_.data() + side.at + (static_cast<int64_t>(chunk) * side.rows + r) * side.part->stride() + panel * kPanel;
            kernels_.side_sums(a, panel, first, columns, row(input, side.row + r) + first, stride(input), sums, side.part->stride(), std::min(kSideRows, side.rows - r));
            sides_done_[instruction].fetch_add(1, std::memory_order_release);
            mine = next_side_[instruction].fetch_add(1, std::memory_order_relaxed);
          }
    }
  }
  Scratch& scratch = scratch_[static_cast<size_t>(thread)];
  scratch.side_run = instruction;
  scratch.side_tasks = task;
}

// What adapters add to some rows and the panels [begin, end) of one product, which has been computed there.
void Program::add_sides(size_t instruction, RowRange some, int begin, int end, int thread) {
  const Instruction& in = spec_.instructions[instruction];
  Scratch& scratch = scratch_[static_cast<size_t>(thread)];
  while (sides_done_[scratch.side_run].load(std::memory_order_acquire) < scratch.side_tasks) std::this_thread::yield();
  for (size_t s = first_side_[instruction]; s < first_side_[instruction + 1]; s++) {
    const Side& side = sides_[s];
    const int stride = side.part->stride(), last = std::min(side.rows, some.end - side.row);
    for (int r = std::max(0, some.begin - side.row); r < last; r += kSideRows) {
      const int rows = std::min(kSideRows, last - r);
      const float* sums = side_sums_.data() + side.at + static_cast<int64_t>(r) * stride;
      float* x = scratch.side_rows.data();
      std::copy(sums, sums + rows * stride, x);
      for (int chunk = 1; chunk < chunks(*side.part); chunk++) {
        sums += static_cast<int64_t>(side.rows) * stride;
        for (int i = 0; i < rows * stride; i++) x[i] += sums[i];
      }
      for (int i = 0; i < rows * stride; i++) x[i] *= side.part->scale;
      kernels_.side_add(side.part->b, x, stride, row(in.out, side.row + r), this->stride(in.out), rows, begin, end);
    }
  }
}

}  // namespace gemlet
