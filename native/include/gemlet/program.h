// A recorded forward pass: a flat list of instructions over row buffers that runs a whole step in one call.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gemlet/adapter.h"
#include "gemlet/kernels.h"
#include "gemlet/kv_state.h"
#include "gemlet/thread_pool.h"

namespace gemlet {

enum class Op : int { embed, norm, add, gelu_gate, rope, quantise, linear, store_key_value, attend, select, silu_gate, add_bias };
constexpr int kOps = 12;

// Which rows an instruction works on: all of the step, or those whose logits or final hidden states are wanted.
enum class Rows : int { all, logits, hidden };

// Buffers are numbered; these two are the caller's arrays.
constexpr int kLogitsOut = -1, kHiddenOut = -2;

constexpr int kMaxSide = 1 << 24;  // of a matrix, or floats of a row: products of two sides stay far from overflow

struct Instruction {
  Op op;
  Rows rows = Rows::all;
  int out = 0;       // buffer written; for quantise the quantised buffer
  int a = 0, b = 0;  // buffers read; for linear on a block format, a is a quantised buffer, and b has what it was made of
  int weight = 0;    // matrix, vector or rotation table
  int layer = 0;     // attention layer
  int width = 0;     // floats a row
  int group = 0;     // norm: width of a group; rope: head size
  float value = 0;   // embed: scale; norm: epsilon
};

struct QuantisedBuffer {
  int columns;
  bool precise;
};

struct ProgramSpec {
  int max_rows = 0;
  int vocabulary = 0;    // floats of a row of logits
  int hidden = 0;        // floats of a row of final hidden states
  std::vector<int> buffers;  // floats a row
  std::vector<QuantisedBuffer> quantised;
  std::vector<Weight> matrices;
  std::vector<std::vector<float>> vectors;
  std::vector<std::vector<float>> rotations;  // inverse frequencies, head_dim / 2 each
  std::vector<Instruction> instructions;
};

struct Step {
  const int32_t* ids;
  const int32_t* positions;
  int rows;
  std::vector<KvState*> states;
  std::vector<int> state_rows;  // rows of each state, in order
  const int32_t* logit_rows;
  int logits;
  const int32_t* hidden_rows;
  int hidden;
  float* logits_out;  // [logits][vocabulary padded to 16]
  float* hidden_out;  // [hidden][width padded to 16]
  std::vector<const Adapter*> adapters = {};  // of each state, null for none; empty when no state has one
  int top = 0;        // above 0: of each row of logits only so many largest are wanted, and logits_out is not used
  int32_t* top_ids = nullptr;   // [logits][top], descending, ties by id; a logit that is no number fills its row
  float* top_values = nullptr;  // [logits][top]
  const uint16_t* allowed = nullptr;  // [logits][panels of the vocabulary], bit i for a panel's row i: the largest are chosen among these;
                                      // null for all. Where fewer are allowed the rest has id -1
};

class Program {
 public:
  static constexpr int kSketchRows = 2;  // of a step; with more, the whole head read once is cheaper
  // Throws std::invalid_argument when an instruction does not fit the buffers, weights or layers.
  Program(ProgramSpec spec, std::shared_ptr<const KvLayout> layout, const Kernels& kernels, int threads);

  const KvLayout& layout() const { return *layout_; }
  int max_rows() const { return spec_.max_rows; }
  int64_t logits_stride() const { return logits_stride_; }  // floats from one row of logits to the next
  int64_t hidden_stride() const { return hidden_stride_; }
  int threads() const { return pool_.size(); }
  const Kernels& kernels() const { return kernels_; }

  // Of pairs (matrix, what is added to its product). Throws std::invalid_argument when they do not fit the program.
  Adapter make_adapter(const std::vector<std::pair<int, LowRank>>& parts) const;

  // Runs one step and takes its positions into the states. Throws std::invalid_argument, std::length_error.
  void run(const Step& step);

  // Lets steps that want the largest logits read less than the whole head. Borrowed memory. Throws std::invalid_argument.
  void set_head(const HeadSketch&);
  HeadCounts take_head_counts() { return std::exchange(head_counts_, {}); }

  // Seconds spent in each kind of operation on the calling thread since the last call, when measuring is on.
  void measure(bool on) { measuring_ = on; }
  std::vector<double> take_seconds();

 private:
  struct FloatBuffer {
    std::unique_ptr<float, void (*)(void*)> data;
    int64_t stride;
  };
  using CodeBuffer = std::unique_ptr<uint8_t, void (*)(void*)>;
  struct Tile {  // consecutive rows of one sequence that attend together
    int state, row, rows, position;
  };
  struct Side {  // what one adapter adds to one product: to consecutive rows of the step
    const LowRank* part;
    int row, rows;
    int64_t at;  // of its part of x · Aᵀ in side_sums_: [chunks of columns][rows][stride]
  };
  struct HeadScratch {  // of one thread
    std::vector<double> x;
    HeadQuery query;
    std::vector<Candidate> best, seeds;
    std::vector<int32_t> likely;
    std::vector<int> panels;  // computed, this row
    int64_t doubtful = 0;
  };
  struct Scratch {  // of one thread
    std::vector<float> queries, scores, sums, peaks, totals, side_rows;
    size_t side_run = 0;  // the run of products that this thread is in, by its first instruction
    int side_tasks = 0;   // and how many tasks its x · Aᵀ are
  };

  struct RowRange {
    int begin, end;
  };
  struct StateCursor {  // the state that a row belongs to, while rows ascend
    size_t index = static_cast<size_t>(-1);
    int end = 0;
  };

  void check() const;
  void place_barriers();
  void check_step(const Step&) const;
  void plan_attention(const Step&);
  void fill_rotations(const Step&, int thread);
  void run_thread(const Step&, int thread);
  int row_count(const Step&, Rows) const;
  float* row(int buffer, int row) const;
  int64_t stride(int buffer) const;
  Quantised codes(int buffer, int rows) const;
  void run_row(const Instruction&, const Step&, int row, StateCursor&);
  bool has_own_rows(int rows) const;
  RowRange share(int rows, int thread) const;  // of the rows, for operations that keep them apart
  void run_linear(size_t instruction, const Step&, int thread);
  void plan_sides(const Step&);
  bool has_side(size_t instruction) const { return !sides_.empty() && first_side_[instruction] < first_side_[instruction + 1]; }
  void start_sides(size_t instruction, int thread);
  void add_sides(size_t instruction, RowRange, int begin, int end, int thread);
  void run_attend(const Instruction&, const Step&, std::atomic<int>& next, int thread);
  void run_head(size_t instruction, const Step&, int thread);
  void sketch_row(const Instruction&, const Step&, int row, int thread);
  void compute_panel(const Instruction&, const Quantised& x, float* logits, int panel, HeadScratch&);
  const uint16_t* allowed_of(const Step& step, int row) const;
  void choose_whole(const Step&, int row);
  void choose_computed(const Step&, int row);
  void gather_queries(const Instruction&, const Tile&, int kv_head, float* queries) const;
  void write_answer(const Instruction&, const Tile&, int kv_head, const Partial&) const;
  void attend_whole(const Instruction&, const Tile&, int kv_head, PageTable, Scratch&);
  void attend_split(const Instruction&, int tile, int kv_head, int part, int parts, PageTable, Scratch&);

  ProgramSpec spec_;
  std::shared_ptr<const KvLayout> layout_;
  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<FloatBuffer> buffers_;
  std::vector<CodeBuffer> quantised_;
  std::vector<FloatBuffer> rotations_;
  std::vector<bool> barrier_before_;
  std::vector<std::atomic<int>> next_;  // next task of each instruction, for each thread's rows
  std::vector<Tile> tiles_;
  bool split_ = false;
  std::vector<float> part_sums_, part_peaks_, part_totals_;
  std::vector<std::atomic<int>> parts_left_;
  std::vector<Scratch> scratch_;
  std::vector<Side> sides_;        // of this step, in the order of the instructions
  std::vector<size_t> first_side_;  // of each instruction, and the end
  std::vector<std::atomic<int>> next_side_, sides_done_;  // next task, and tasks done, of each instruction that begins a run of products
  std::vector<float> side_sums_;
  float* logits_out_ = nullptr;
  float* hidden_out_ = nullptr;
  int64_t logits_stride_ = 0, hidden_stride_ = 0;
  HeadSketch head_;
  std::vector<std::atomic<uint8_t>> panel_done_;
  std::vector<float> bounds_, top_logits_;
  std::vector<double> projected_;
  std::vector<HeadScratch> head_scratch_;
  std::atomic<int> head_next_[2];
  HeadCounts head_counts_;
  bool measuring_ = false;
  std::vector<double> seconds_;
};

}  // namespace gemlet
