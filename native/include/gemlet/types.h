// What the kernels are given. Every row of every buffer starts on a 64-byte boundary and is padded to 16 floats.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gemlet {

constexpr int kPanel = 16;         // output rows interleaved in one panel of weights
constexpr int kBlock = 32;         // columns that share a scale
constexpr int kPagePositions = 64; // positions in one page of keys and values
constexpr int kPartition = 512;    // positions summed on their own before partial attention results are joined

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Block formats i4..i8h hold unsigned codes: weight = scale * (code - zero) + min. Dense formats hold plain numbers.
enum class Format : int { i4, i8, i4m, i8m, i8h, f32, f16, bf16 };

constexpr bool is_dense(Format f) { return f >= Format::f32; }
constexpr bool is_nibble(Format f) { return f == Format::i4 || f == Format::i4m; }
constexpr bool has_min(Format f) { return f == Format::i4m || f == Format::i8m; }
constexpr bool has_half_scales(Format f) { return f == Format::i8h; }
constexpr bool has_f16_scales(Format f) { return f == Format::i4 || f == Format::i8; }
constexpr int zero_point(Format f) { return f == Format::i4 ? 8 : f == Format::i8 || f == Format::i8h ? 128 : 0; }
constexpr int code_bytes(Format f) { return is_nibble(f) ? 256 : 512; }  // of one panel and block
constexpr int dense_bytes(Format f) { return f == Format::f32 ? 4 : 2; }

// A weight matrix in the kernels' layout (see gemlet/ops/packed.py); borrowed memory.
struct Weight {
  Format format;
  int rows, columns;
  const uint8_t* codes;   // block: [panels][blocks][code_bytes]; dense: [panels][columns][16]
  const uint8_t* scales;  // [panels][blocks][16], or [2][16] a block with half scales
  const float* mins;      // [panels][blocks][16]

  int panels() const { return (rows + kPanel - 1) / kPanel; }
  int blocks() const { return columns / kBlock; }
};

// A block of 32 quantised values: value = scale * code. One group of four columns, where the block's largest value lies, has a second
// helping of 8 bits in `spare`, so that a single outlier costs its neighbours no precision.
struct QuantisedBlock {
  int8_t codes[kBlock];
  float scale;
  int32_t sum, half_sums[2];  // of all codes, what `spare` adds included
  int8_t spare[4];
  int32_t spare_offset;       // of the group's codes in a panel's block of 4-bit weights, in bytes,
  int64_t spare_shift;        // and in bits; 8-bit weights have it at spare_offset + 64 * spare_shift

  int spare_group() const { return spare_offset / 64 + static_cast<int>(spare_shift); }
};
static_assert(sizeof(QuantisedBlock) == 64);

// The same with 16-bit codes, 256 * codes + low, and nothing to spare.
struct PreciseBlock {
  QuantisedBlock high;
  int8_t low[kBlock];
};
static_assert(sizeof(PreciseBlock) == 96);

// Rows of quantised blocks. Up to six rows lie side by side, block by block, in the order in which a product reads them.
struct Quantised {
  static constexpr int kTile = 6;

  uint8_t* data;
  int columns;
  bool precise;
  int tile;  // rows side by side: as many as there are, at most kTile

  int blocks() const { return columns / kBlock; }
  int64_t block_bytes() const { return precise ? sizeof(PreciseBlock) : sizeof(QuantisedBlock); }
  int64_t stride() const { return tile * block_bytes(); }  // from a row's block to its next
  uint8_t* row(int r) const { return data + (static_cast<int64_t>(r / tile) * blocks() * tile + r % tile) * block_bytes(); }
  Quantised from(int r) const { return {row(r), columns, precise, tile}; }  // without the first r rows, whole tiles
  static int64_t bytes(int rows, int columns, bool precise) {
    return round_up(rows, kTile) * (columns / kBlock) * static_cast<int64_t>(precise ? sizeof(PreciseBlock) : sizeof(QuantisedBlock));
  }
};

// One sequence's keys and values in one layer: pages[i] covers positions 64 * (first_page + i) onwards.
// A page holds, for each key-value head, keys [head_dim padded][64] and then values [64][head_dim padded], in f16.
struct PageTable {
  uint16_t* const* pages;
  int first_page;
};

struct AttendShape {
  int heads, kv_heads, head_dim, window;  // window 0: every earlier position
  float scale;

  int group() const { return heads / kv_heads; }
  int padded_dim() const { return static_cast<int>(round_up(head_dim, kPanel)); }
  int64_t page_head_elements() const { return 2LL * kPagePositions * padded_dim(); }
  int first_visible(int position) const { return window > 0 && position >= window ? position - window + 1 : 0; }
};

// Running result of attention over some positions: sum / total is the answer, both relative to exp(peak).
struct Partial {
  float* sums;    // [rows of the tile][padded_dim]
  float* peaks;   // [rows of the tile]; -inf: nothing seen yet
  float* totals;  // [rows of the tile]
};

}  // namespace gemlet
