// Matrix products with packed weights. Included inside the namespace of an instruction set.
//
// One output element is, in this order whatever the tile: for each block of 32 columns an exact integer sum, converted, multiplied by
// the product of both scales and added to the running float; with a minimum, one more addition for it.

template <Format F>
constexpr int64_t kScaleBytes = has_f16_scales(F) ? 32 : has_half_scales(F) ? 128 : 64;  // of one panel and block

template <Format F>
[[gnu::always_inline]] inline f32x16 load_scale(const uint8_t* scales) {
  if constexpr (has_f16_scales(F)) return load_f16(scales);
  return load<f32x16>(scales);
}

// Codes of four columns (4 * group ...) of a panel's block.
template <Format F>
[[gnu::always_inline]] inline u8x64 load_codes(const uint8_t* block, int group) {
  if constexpr (is_nibble(F)) {
    const u8x64 pair = load<u8x64>(block + 64 * (group % 4));
    if (group < 4) return pair & 15;
    return (u8x64)((u32x16)pair >> 4) & 15;
  }
  return load<u8x64>(block + 64 * group);
}

template <Format F>
[[gnu::always_inline]] inline u8x64 load_spare_codes(const uint8_t* block, const QuantisedBlock& x) {
  if constexpr (is_nibble(F)) return (u8x64)shift_right(load<u32x16>(block + x.spare_offset), &x.spare_shift) & 15;
  return load<u8x64>(block + x.spare_offset + 64 * x.spare_shift);
}

// The rows of a tile at one block of columns.
template <bool Precise>
struct TileBlock {
  using Block = std::conditional_t<Precise, PreciseBlock, QuantisedBlock>;
  const Block* rows;

  [[gnu::always_inline]] const QuantisedBlock& operator[](int t) const {
    if constexpr (Precise)
      return rows[t].high;
    else
      return rows[t];
  }
};

// Integer sums of groups [First, Last) of one block, zero point taken off, for T rows and N panels.
template <Format F, bool Precise, int T, int N, int First, int Last>
[[gnu::always_inline]] inline void dot_block(const uint8_t* const (&codes)[N], const TileBlock<Precise>& x, i32x16 (&out)[T][N]) {
  using Sum = Products<is_nibble(F)>;
  constexpr int zero = zero_point(F) - (is_nibble(F) ? 0 : kCodeOrigin);
  Sum sums[T][N], low[Precise ? T : 1][Precise ? N : 1];
  for (int t = 0; t < T; t++) {
    const i32x16 offset = splat(Last - First == 8 ? x[t].sum : x[t].half_sums[First / 4]) * -zero;
    for (int p = 0; p < N; p++) {
      sums[t][p] = Sum{Precise ? i32x16{} : offset};
      if constexpr (Precise) low[t][p] = Sum{offset};
    }
  }
  if constexpr (!Precise)
    for (int t = 0; t < T; t++) {
      if (Last - First < 8 && x[t].spare_group() / 4 != First / 4) continue;
      for (int p = 0; p < N; p++) sums[t][p].add_spare(load_spare_codes<F>(codes[p], x[t]), x[t].spare);
    }
#pragma GCC unroll 8
  for (int g = First; g < Last; g++)
#pragma GCC unroll 4
    for (int p = 0; p < N; p++) {
      const u8x64 c = load_codes<F>(codes[p], g);
#pragma GCC unroll 8
      for (int t = 0; t < T; t++) {
        sums[t][p].add(c, x[t].codes + 4 * g);
        if constexpr (Precise) low[t][p].add(c, x.rows[t].low + 4 * g);
      }
    }
  for (int t = 0; t < T; t++)
    for (int p = 0; p < N; p++) {
      out[t][p] = sums[t][p].total();
      if constexpr (Precise) out[t][p] = (out[t][p] << 8) + low[t][p].total();
    }
}

// How far ahead weights are fetched: enough to cover the memory's latency at full bandwidth.
constexpr int kFetchAhead = 2048;

template <Format F, int N>
[[gnu::always_inline]] inline void fetch_ahead(const uint8_t* const (&codes)[N], const uint8_t* const (&scales)[N], int b, int blocks) {
  // Past a panel's end go on with the one that takes its place in the next tile.
  constexpr int blocks_ahead = kFetchAhead / code_bytes(F);
  const int64_t ahead = blocks_ahead + (b + blocks_ahead < blocks ? 0 : static_cast<int64_t>(N - 1) * blocks);
  for (int p = 0; p < N; p++) {
    for (int line = 0; line < code_bytes(F); line += 64) __builtin_prefetch(codes[p] + ahead * code_bytes(F) + line);
    __builtin_prefetch(scales[p] + ahead * kScaleBytes<F>);
  }
}

template <Format F, bool Precise, int T, int N>
static void linear_tile(const Weight& w, const Quantised& q, float* out, int64_t out_stride, int row, int panel, bool fetch) {
  const int blocks = w.blocks();
  const uint8_t* codes[N];
  const uint8_t* scales[N];
  const float* mins[N];
  for (int p = 0; p < N; p++) {
    const int64_t first = static_cast<int64_t>(panel + p) * blocks;
    codes[p] = w.codes + first * code_bytes(F);
    scales[p] = w.scales + first * kScaleBytes<F>;
    mins[p] = has_min(F) ? w.mins + first * kPanel : nullptr;
  }
  const uint8_t* rows = q.row(row);
  if constexpr (T > 1)  // the results' lines arrive while they are computed
    for (int t = 0; t < T; t++)
      for (int p = 0; p < N; p++) __builtin_prefetch(out + (row + t) * out_stride + (panel + p) * 16, 1);
  f32x16 acc[T][N]{};
  for (int b = 0; b < blocks; b++) {
    const TileBlock<Precise> x{reinterpret_cast<const typename TileBlock<Precise>::Block*>(rows)};
    i32x16 dots[T][N];
    if constexpr (has_half_scales(F)) {
      auto half = [&](auto first) {
        constexpr int h = decltype(first)::value;
        dot_block<F, Precise, T, N, 4 * h, 4 * h + 4>(codes, x, dots);
        for (int p = 0; p < N; p++) {
          const f32x16 scale = load<f32x16>(scales[p] + 64 * h);
          for (int t = 0; t < T; t++) acc[t][p] = fma(to_float(dots[t][p]), scale * splat(x[t].scale), acc[t][p]);
        }
      };
      half(std::integral_constant<int, 0>{});
      half(std::integral_constant<int, 1>{});
    } else {
      dot_block<F, Precise, T, N, 0, 8>(codes, x, dots);
      for (int p = 0; p < N; p++) {
        const f32x16 scale = load_scale<F>(scales[p]);
        for (int t = 0; t < T; t++) {
          acc[t][p] = fma(to_float(dots[t][p]), scale * splat(x[t].scale), acc[t][p]);
          if constexpr (has_min(F)) acc[t][p] = fma(load<f32x16>(mins[p]), splat(x[t].scale * static_cast<float>(x[t].sum)), acc[t][p]);
        }
      }
    }
    for (int p = 0; p < N; p++) {
      codes[p] += code_bytes(F);
      scales[p] += kScaleBytes<F>;
      if constexpr (has_min(F)) mins[p] += kPanel;
    }
    if (fetch) fetch_ahead<F, N>(codes, scales, b + 1, blocks);
    rows += q.stride();
  }
  for (int t = 0; t < T; t++)
    for (int p = 0; p < N; p++) store(out + (row + t) * out_stride + (panel + p) * 16, acc[t][p]);
}

// Rows [row, end) over the panels [panel, panel + N); the first tile brings the weights into the cache.
template <Format F, bool Precise, int T, int N>
[[gnu::always_inline]] inline void linear_rows(const Weight& w, const Quantised& q, float* out, int64_t stride, int row, int end, int panel, bool fetch = true) {
  static_assert(Quantised::kTile % T == 0 || T < Quantised::kTile);
  for (; row + T <= end; row += T, fetch = false) linear_tile<F, Precise, T, N>(w, q, out, stride, row, panel, fetch);
  if constexpr (T > 1)
    if (row < end) linear_rows<F, Precise, T - 1, N>(w, q, out, stride, row, end, panel, fetch);
}

// Rows are taken in chunks that stay in the second-level cache while the panels pass, each panel staying in the first.
constexpr int64_t kChunkBytes = 400 << 10;

// While the memory is what is waited for, panels come one after another as a single stream: the fewer the rows, the shorter the panel
// and the more bytes to a weight, the likelier. The marks are where both ways were equally fast.
template <Format F>
[[gnu::always_inline]] inline bool waits_for_memory(int rows, int blocks) {
  const bool one_tile = rows <= Quantised::kTile;
  return is_nibble(F) ? one_tile && rows * blocks <= 240 : one_tile || rows * blocks <= 432;
}

template <Format F, bool Precise>
static void linear_panels(const Weight& w, const Quantised& q, float* out, int64_t stride, int rows, int begin, int end) {
  constexpr int T = Precise ? kPreciseRows : kTileRows, N = Precise ? kPrecisePanels : kTilePanels;
  const int most = std::max<int>(1, static_cast<int>(kChunkBytes / (q.blocks() * q.block_bytes()) / Quantised::kTile)) * Quantised::kTile;
  const int chunks = (rows + most - 1) / most;
  const int chunk = static_cast<int>(round_up((rows + chunks - 1) / chunks, Quantised::kTile));
  for (int row = 0; row < rows; row += chunk) {
    const int last = std::min(rows, row + chunk);
    int panel = begin;
    if (waits_for_memory<F>(last - row, w.blocks()))
      for (; panel < end; panel++) linear_rows<F, Precise, std::min(T * N, Quantised::kTile), 1>(w, q, out, stride, row, last, panel);
    for (; panel + N <= end; panel += N) linear_rows<F, Precise, T, N>(w, q, out, stride, row, last, panel);
    if constexpr (N > 1)
      for (; panel < end; panel++) linear_rows<F, Precise, T, 1>(w, q, out, stride, row, last, panel);
  }
}

// Calls f with the format as a constant.
template <class Function>
[[gnu::always_inline]] inline void with_format(Format format, Function f) {
  switch (format) {
    case Format::i4: return f(std::integral_constant<Format, Format::i4>{});
    case Format::i8: return f(std::integral_constant<Format, Format::i8>{});
    case Format::i4m: return f(std::integral_constant<Format, Format::i4m>{});
    case Format::i8m: return f(std::integral_constant<Format, Format::i8m>{});
    case Format::i8h: return f(std::integral_constant<Format, Format::i8h>{});
    case Format::f32: return f(std::integral_constant<Format, Format::f32>{});
    case Format::f16: return f(std::integral_constant<Format, Format::f16>{});
    case Format::bf16: return f(std::integral_constant<Format, Format::bf16>{});
  }
}

static void linear(const Weight& w, const Quantised& q, float* out, int64_t stride, int rows, int begin, int end) {
  with_format(w.format, [&](auto format) {
    constexpr Format F = decltype(format)::value;
    if constexpr (!is_dense(F)) {
      if (q.precise)
        linear_panels<F, true>(w, q, out, stride, rows, begin, end);
      else
        linear_panels<F, false>(w, q, out, stride, rows, begin, end);
    }
  });
}

template <Format F>
[[gnu::always_inline]] inline f32x16 load_dense(const uint8_t* p) {
  if constexpr (F == Format::f32) return load<f32x16>(p);
  if constexpr (F == Format::f16) return load_f16(p);
  return (f32x16)(widen(load<u16x16>(p)) << 16);
}

template <Format F, int T, int N>
static void dense_tile(const Weight& w, const float* x, int64_t x_stride, float* out, int64_t stride, int row, int panel) {
  f32x16 acc[T][N]{};
  const int64_t panel_bytes = static_cast<int64_t>(w.columns) * 16 * dense_bytes(F);
  for (int k = 0; k < w.columns; k++)
    for (int p = 0; p < N; p++) {
      const f32x16 value = load_dense<F>(w.codes + (panel + p) * panel_bytes + static_cast<int64_t>(k) * 16 * dense_bytes(F));
      for (int t = 0; t < T; t++) acc[t][p] = fma(value, splat(x[(row + t) * x_stride + k]), acc[t][p]);
    }
  for (int t = 0; t < T; t++)
    for (int p = 0; p < N; p++) store(out + (row + t) * stride + (panel + p) * 16, acc[t][p]);
}

template <Format F, int T, int N>
[[gnu::always_inline]] inline void dense_rows(const Weight& w, const float* x, int64_t x_stride, float* out, int64_t stride, int row, int rows, int panel) {
  for (; row + T <= rows; row += T) dense_tile<F, T, N>(w, x, x_stride, out, stride, row, panel);
  if constexpr (T > 1)
    if (row < rows) dense_rows<F, T - 1, N>(w, x, x_stride, out, stride, row, rows, panel);
}

template <Format F>
static void dense_panels(const Weight& w, const float* x, int64_t x_stride, float* out, int64_t stride, int rows, int begin, int end) {
  int panel = begin;
  for (; panel + kDensePanels <= end; panel += kDensePanels) dense_rows<F, kDenseRows, kDensePanels>(w, x, x_stride, out, stride, 0, rows, panel);
  if constexpr (kDensePanels > 1)
    for (; panel < end; panel++) dense_rows<F, kDenseRows, 1>(w, x, x_stride, out, stride, 0, rows, panel);
}

static void linear_dense(const Weight& w, const float* x, int64_t x_stride, float* out, int64_t stride, int rows, int begin, int end) {
  with_format(w.format, [&](auto format) {
    constexpr Format F = decltype(format)::value;
    if constexpr (is_dense(F)) dense_panels<F>(w, x, x_stride, out, stride, rows, begin, end);
  });
}

// One row of the table, times the scale. Only one lane of each vector is wanted; reading it costs nothing beside a matrix product.
template <Format F>
static void embed_row(const Weight& w, int id, float scale, float* out) {
  const int lane = id % kPanel;
  const int64_t panel = id / kPanel;
  if constexpr (is_dense(F)) {
    const uint8_t* values = w.codes + panel * w.columns * 16 * dense_bytes(F);
    for (int k = 0; k < w.columns; k++) out[k] = load_dense<F>(values + static_cast<int64_t>(k) * 16 * dense_bytes(F))[lane] * scale;
  } else {
    for (int b = 0; b < w.blocks(); b++) {
      const int64_t at = panel * w.blocks() + b;
      const uint8_t* codes = w.codes + at * code_bytes(F);
      for (int c = 0; c < kBlock; c++) {
        float s;
        if constexpr (has_half_scales(F)) s = load<f32x16>(w.scales + (at * 2 + c / 16) * 64)[lane];
        else s = load_scale<F>(w.scales + at * kScaleBytes<F>)[lane];
        const int code = load_codes<F>(codes, c / 4)[4 * lane + c % 4] - zero_point(F);
        float value = s * static_cast<float>(code);
        if constexpr (has_min(F)) value += w.mins[at * 16 + lane];
        out[b * kBlock + c] = value * scale;
      }
    }
  }
}

static void embed(const Weight& w, int id, float scale, float* out) {
  with_format(w.format, [&](auto format) { embed_row<decltype(format)::value>(w, id, scale, out); });
}
