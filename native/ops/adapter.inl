// The two products of an adapter, with dense weights of few rows or few columns. Included behind linear.inl.

// Columns [0, columns) of one row are added up in ascending order, from zero or from what `out` holds, whatever the tile.
template <Format F, int T, int N, bool Add>
static void side_tile(const uint8_t* codes, int64_t panel_bytes, int columns, const float* x, int64_t x_stride, float* out, int64_t stride) {
  f32x16 acc[T][N]{};
  if constexpr (Add)
    for (int t = 0; t < T; t++)
      for (int p = 0; p < N; p++) acc[t][p] = load<f32x16>(out + t * stride + p * kPanel);
  for (int k = 0; k < columns; k++)
    for (int p = 0; p < N; p++) {
      const f32x16 value = load_dense<F>(codes + p * panel_bytes + static_cast<int64_t>(k) * kPanel * dense_bytes(F));
      for (int t = 0; t < T; t++) acc[t][p] = fma(value, splat(x[t * x_stride + k]), acc[t][p]);
    }
  for (int t = 0; t < T; t++)
    for (int p = 0; p < N; p++) store(out + t * stride + p * kPanel, acc[t][p]);
}

template <Format F, int T, int N, bool Add>
[[gnu::always_inline]] inline void side_rows(const uint8_t* codes, int64_t panel_bytes, int columns, const float* x, int64_t x_stride, float* out, int64_t stride, int row,
                                             int rows) {
  for (; row + T <= rows; row += T) side_tile<F, T, N, Add>(codes, panel_bytes, columns, x + row * x_stride, x_stride, out + row * stride, stride);
  if constexpr (T > 1)
    if (row < rows) side_rows<F, T / 2, N, Add>(codes, panel_bytes, columns, x, x_stride, out, stride, row, rows);
}

// One panel leaves the registers to the rows: each value of the weights serves as many as there are.
static void side_sums(const Weight& a, int panel, int first, int columns, const float* x, int64_t x_stride, float* out, int64_t stride, int rows) {
  with_format(a.format, [&](auto format) {
    constexpr Format F = decltype(format)::value;
    if constexpr (is_dense(F)) {
      const uint8_t* codes = a.codes + (static_cast<int64_t>(panel) * a.columns + first) * kPanel * dense_bytes(F);
      side_rows<F, 2 * kDenseRows, 1, false>(codes, 0, columns, x, x_stride, out, stride, 0, rows);
    }
  });
}

static void side_add(const Weight& b, const float* x, int64_t x_stride, float* out, int64_t stride, int rows, int begin, int end) {
  with_format(b.format, [&](auto format) {
    constexpr Format F = decltype(format)::value;
    if constexpr (is_dense(F)) {
      const int64_t panel_bytes = static_cast<int64_t>(b.columns) * kPanel * dense_bytes(F);
      int panel = begin;
      const auto at = [&](auto count) { side_rows<F, kDenseRows, decltype(count)::value, true>(b.codes + panel * panel_bytes, panel_bytes, b.columns, x, x_stride, out + panel * kPanel, stride, 0, rows); };
      for (; panel + kDensePanels <= end; panel += kDensePanels) at(std::integral_constant<int, kDensePanels>{});
      if constexpr (kDensePanels > 1)
        for (; panel < end; panel++) at(std::integral_constant<int, 1>{});
    }
  });
}
