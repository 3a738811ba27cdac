// Attention inside a program: which rows go together, and how partitions are shared out when there are few rows.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "gemlet/program.h"

namespace gemlet {
namespace {

constexpr int kTileRows = 32;   // query rows, heads counted, that share one reading of a page
constexpr int kSplitRows = 16;  // steps of at most so many rows share out partitions too

struct Span {
  int first, last;  // partitions
  int count() const { return last - first + 1; }
};

Span partitions(const AttendShape& shape, int position, int rows) { return {shape.first_visible(position) / kPartition, (position + rows - 1) / kPartition}; }

}  // namespace

void Program::plan_attention(const Step& step) {
  tiles_.clear();
  int group = 1, row = 0;
  for (const AttendShape& s : layout_->layers) group = std::max(group, s.group());
  const int tile_rows = std::max(1, kTileRows / group);
  for (size_t s = 0; s < step.states.size(); s++) {
    for (int done = 0; done < step.state_rows[s]; done += tile_rows)
      tiles_.push_back({static_cast<int>(s), row + done, std::min(tile_rows, step.state_rows[s] - done), step.positions[row + done]});
    row += step.state_rows[s];
  }
  split_ = step.rows <= kSplitRows && pool_.size() > 1;
  int heads = 1, dim = 16;
  for (const AttendShape& s : layout_->layers) heads = std::max(heads, s.kv_heads), dim = std::max(dim, s.padded_dim());
  const size_t tile = static_cast<size_t>(tile_rows * group), wide = static_cast<size_t>(dim);
  for (Scratch& s : scratch_) {
    s.queries.resize(tile * wide);
    s.scores.resize(tile * kPagePositions);
    s.sums.resize(2 * tile * wide);
    s.peaks.resize(2 * tile);
    s.totals.resize(2 * tile);
  }
  if (!split_) return;
  size_t parts = 1;
  for (const Tile& t : tiles_) parts = std::max(parts, static_cast<size_t>((t.position + t.rows - 1) / kPartition + 1));
  const size_t slots = tiles_.size() * static_cast<size_t>(heads) * parts;
  if (part_peaks_.size() < slots * tile) {
    part_sums_.resize(slots * tile * wide);
    part_peaks_.resize(slots * tile);
    part_totals_.resize(slots * tile);
  }
  if (parts_left_.size() < tiles_.size() * static_cast<size_t>(heads)) parts_left_ = std::vector<std::atomic<int>>(tiles_.size() * static_cast<size_t>(heads));
}

void Program::gather_queries(const Instruction& in, const Tile& tile, int kv_head, float* queries) const {
  const AttendShape& s = layout_->layers[static_cast<size_t>(in.layer)];
  const int padded = s.padded_dim(), group = s.group();
  for (int r = 0; r < tile.rows; r++)
    for (int g = 0; g < group; g++) {
      const float* from = row(in.a, tile.row + r) + (kv_head * group + g) * s.head_dim;
      float* to = queries + static_cast<int64_t>(r * group + g) * padded;
      for (int i = 0; i < s.head_dim; i++) to[i] = from[i] * s.scale;
    }
}

void Program::write_answer(const Instruction& in, const Tile& tile, int kv_head, const Partial& p) const {
  const AttendShape& s = layout_->layers[static_cast<size_t>(in.layer)];
  const int padded = s.padded_dim(), group = s.group();
  for (int r = 0; r < tile.rows; r++)
    for (int g = 0; g < group; g++) {
      const int m = r * group + g;
      float* to = row(in.out, tile.row + r) + (kv_head * group + g) * s.head_dim;
      const float* sums = p.sums + static_cast<int64_t>(m) * padded;
      for (int i = 0; i < s.head_dim; i++) to[i] = sums[i] / p.totals[m];
    }
}

void Program::run_attend(const Instruction& in, const Step& step, std::atomic<int>& next, int thread) {
  const AttendShape& s = layout_->layers[static_cast<size_t>(in.layer)];
  Scratch& scratch = scratch_[static_cast<size_t>(thread)];
  // Tasks are numbered tile by tile, head by head, partition by partition; walking them in order finds the task of a number.
  int number = 0, mine = next.fetch_add(1, std::memory_order_relaxed);
  for (size_t t = 0; t < tiles_.size(); t++) {
    const Tile& tile = tiles_[t];
    const int parts = split_ ? partitions(s, tile.position, tile.rows).count() : 1;
    for (int head = 0; head < s.kv_heads; head++)
      for (int part = 0; part < parts; part++, number++) {
        if (number != mine) continue;
        const PageTable table = step.states[static_cast<size_t>(tile.state)]->table(in.layer);
        if (split_)
          attend_split(in, static_cast<int>(t), head, part, parts, table, scratch);
        else
          attend_whole(in, tile, head, table, scratch);
        mine = next.fetch_add(1, std::memory_order_relaxed);
      }
  }
}

void Program::attend_whole(const Instruction& in, const Tile& tile, int kv_head, PageTable table, Scratch& scratch) {
  const AttendShape& s = layout_->layers[static_cast<size_t>(in.layer)];
  const int rows = tile.rows * s.group();
  const size_t wide = static_cast<size_t>(s.padded_dim()), half = scratch.peaks.size() / 2;
  gather_queries(in, tile, kv_head, scratch.queries.data());
  const Partial sum{scratch.sums.data(), scratch.peaks.data(), scratch.totals.data()};
  const Partial part{scratch.sums.data() + half * wide, scratch.peaks.data() + half, scratch.totals.data() + half};
  const Span span = partitions(s, tile.position, tile.rows);
  for (int p = span.first; p <= span.last; p++) {
    const Partial& to = p == span.first ? sum : part;
    kernels_.attend_partition(scratch.queries.data(), s, kv_head, table, p, tile.position, tile.rows, to, scratch.scores.data());
    if (p > span.first) kernels_.join_partial(sum, part, rows, s.padded_dim());
  }
  write_answer(in, tile, kv_head, sum);
}

void Program::attend_split(const Instruction& in, int t, int kv_head, int part, int parts, PageTable table, Scratch& scratch) {
  const AttendShape& s = layout_->layers[static_cast<size_t>(in.layer)];
  const Tile& tile = tiles_[static_cast<size_t>(t)];
  const size_t rows = static_cast<size_t>(tile.rows * s.group()), wide = static_cast<size_t>(s.padded_dim()), slot_rows = scratch.peaks.size() / 2;
  const size_t all_parts = part_peaks_.size() / slot_rows / (tiles_.size() * static_cast<size_t>(s.kv_heads));
  const size_t owner = static_cast<size_t>(t * s.kv_heads + kv_head);
  const auto slot = [&](int p) {
    const size_t at = (owner * all_parts + static_cast<size_t>(p)) * slot_rows;
    return Partial{part_sums_.data() + at * wide, part_peaks_.data() + at, part_totals_.data() + at};
  };
  gather_queries(in, tile, kv_head, scratch.queries.data());
  const int first = partitions(s, tile.position, tile.rows).first;
  kernels_.attend_partition(scratch.queries.data(), s, kv_head, table, first + part, tile.position, tile.rows, slot(part), scratch.scores.data());
  // Whoever finishes last joins the parts, in order.
  if (parts_left_[owner].fetch_add(1, std::memory_order_acq_rel) + 1 < parts) return;
  parts_left_[owner].store(0, std::memory_order_relaxed);
  for (int p = 1; p < parts; p++) kernels_.join_partial(slot(0), slot(p), static_cast<int>(rows), s.padded_dim());
  write_answer(in, tile, kv_head, slot(0));
}

}  // namespace gemlet
