// The arithmetic of one instruction set. Every output element is computed in one fixed order, whatever else is computed beside it.
#pragma once
#include <vector>

#include "gemlet/head.h"
#include "gemlet/types.h"

namespace gemlet {

struct Kernels {
  const char* name;

  // out[r][16 * panel + lane] for panels [begin, end), rows [0, rows). Strides count floats.
  void (*linear)(const Weight&, const Quantised&, float* out, int64_t out_stride, int rows, int begin, int end);
  void (*linear_dense)(const Weight&, const float* x, int64_t x_stride, float* out, int64_t out_stride, int rows, int begin, int end);
  // For adapters, with dense weights. Columns [first, first + columns) of one panel: out[r][lane]. And panels [begin, end) added to out.
  void (*side_sums)(const Weight&, int panel, int first, int columns, const float* x, int64_t x_stride, float* out, int64_t out_stride, int rows);
  void (*side_add)(const Weight&, const float* x, int64_t x_stride, float* out, int64_t out_stride, int rows, int begin, int end);

  void (*quantise)(const float* x, const Quantised&, int row);
  void (*embed)(const Weight&, int id, float scale, float* out);  // out: columns floats
  void (*norm)(const float* x, const float* weight, int width, int group, float eps, float* out);
  void (*add)(const float* a, const float* b, int width, float* out);
  void (*gelu_gate)(const float* gate, const float* up, int width, float* out);
  void (*silu_gate)(const float* gate, const float* up, int width, float* out);
  void (*rope)(const float* x, const float* cos_sin, int width, int head_dim, float* out);  // cos_sin: [2][head_dim / 2]

  void (*store_key_value)(const float* k, const float* v, const AttendShape&, uint16_t* page, int slot);
  // Queries of `rows` consecutive positions from `position` on, heads of one key-value head, keys of one partition of positions.
  // `queries` is [rows * group][padded_dim], already scaled; `scratch` holds [rows * group][64] floats.
  void (*attend_partition)(const float* queries, const AttendShape&, int kv_head, PageTable, int partition, int position, int rows, Partial, float* scratch);
  void (*join_partial)(Partial into, Partial from, int rows, int padded_dim);  // rows of the tile

  int (*top_k)(const float* x, int n, int k, int32_t* ids, float* values);  // descending, ties by id; returns how many
  double (*log_sum_exp)(const float* x, int n);

  // The head's sketch. y = inverse x for panels [begin, end) of 16; the others work on panels of the head's rows.
  void (*head_project)(const HeadSketch&, const double* x, double* y, int begin, int end);
  // Writes upper bounds of the logits; `best` becomes a heap, the worst on top, of the `count` largest estimates that it has met.
  void (*head_scan)(const HeadSketch&, const HeadQuery&, const uint16_t* allowed, int begin, int end, float* bounds, int count, std::vector<Candidate>& best);
  // Appends the rows whose bound stays at `least` or above with their fine codes; returns how many it read those of.
  int64_t (*head_doubts)(const HeadSketch&, const HeadQuery&, const float* bounds, float least, int begin, int end, std::vector<int32_t>& likely);
};

// The named instruction set, or null where this processor or build lacks it. "auto" is the best one.
const Kernels* find_kernels(const char* name);

}  // namespace gemlet
