// The head's sketch: a coarse copy from which most rows are proven not to be among the largest logits.
//
// A row w of the head is kept as a = wM, where M is invertible: wx = ay with y = inverse x. The first `bytes` elements of a have codes
// of 8 bits, the next `nibbles` of 4, the rest of 2:
//   a[d] = centre[d] + step[d] * (code[d] - zero[d]) + e[d],   e[d] = fine_step * step[d] * (fine[d] - 7.5) + f[d]
// By Cauchy and Schwarz |ey| <= |e||y|. Panels hold the codes and |e|, rows of fine codes are read where that leaves a doubt.
#pragma once
#include <cstdint>
#include <vector>

#include "gemlet/types.h"

namespace gemlet {

struct HeadSketch {
  int rows = 0, columns = 0, bytes = 0, nibbles = 0;
  int top = INT32_MAX;  // it serves up to so many largest logits; for more the whole head is as fast
  const uint8_t* panels = nullptr;  // [rows / 16][lines][64]; lines as below, the last one holds 16 floats |e|
  const uint8_t* fine = nullptr;    // [rows][columns / 128 rounded up][64], column 128 v + i in the low half of byte i, + 64 in the high
  const float* drops = nullptr;     // [rows] at most |e| - |f|
  const float* inverse = nullptr;   // [columns / 16][columns][16], as a dense matrix in the kernels' layout
  const float* steps = nullptr;     // [columns]
  const float* centres = nullptr;   // [columns]
  float fine_step = 0;
  float slack = 0;                  // times |x|: covers the roundings of `inverse`, of M, and of the head's own product
  float largest = 0;                // of all |e|

  int panel_count() const { return (rows + kPanel - 1) / kPanel; }
  int64_t panel_bytes() const { return 64LL * (bytes / 4 + nibbles / 8 + (columns - bytes - nibbles) / 16 + 1); }
  int64_t fine_bytes() const { return round_up(columns, 128) / 2; }
  int most(int d) const { return d < bytes ? 255 : d < bytes + nibbles ? 15 : 3; }  // of a code; zero is half of it
};

// One y, as 16-bit codes 256 * high + low of step[d] * y[d], and what turns sums of codes into logits.
struct HeadQuery {
  std::vector<int8_t> high, low;  // columns, padded to 128
  bool usable = false;            // false: not finite, the whole head is needed
  float scale = 0, offset = 0;    // logit = scale * sum + offset, offset raised by all that roundings can do
  float reach = 0;                // |y|, rounded up
  float fine_scale = 0, fine_offset = 0;

  // Bounds what rounding does to every row. x_length: |x|.
  void prepare(const HeadSketch&, const double* y, double x_length);
};

// Whether bit row % 16 of the row's panel is set; null: all are.
inline bool is_allowed(const uint16_t* allowed, int row) { return !allowed || (allowed[row / kPanel] >> (row % kPanel) & 1); }

struct Candidate {
  float value;
  int32_t id;
};
inline bool better(const Candidate& a, const Candidate& b) { return a.value > b.value || (a.value == b.value && a.id < b.id); }

// How often the bounds held: rows in doubt after panels, after fine codes, and panels of the head computed; summed over queries.
struct HeadCounts {
  int64_t queries = 0, whole = 0, doubtful = 0, likely = 0, panels = 0;
};

}  // namespace gemlet
