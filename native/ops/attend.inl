// Attention over paged keys and values. Included inside the namespace of an instruction set.
//
// A partition of 512 positions is summed page by page with a running peak; partitions are joined in order. Both borders are absolute
// positions, so a query's result does not depend on the chunk it came in.

// C[r][16 * N] (+)= A[r][0 .. depth) * B[depth][...] for R rows; B is f16. Products are added in the order of depth.
template <int R, int N>
[[gnu::always_inline]] inline void gemm_tile(const float* a, int64_t a_stride, const uint16_t* b, int64_t b_stride, int begin, int depth, float* c, int64_t c_stride) {
  f32x16 acc[R][N];
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) acc[r][n] = load<f32x16>(c + r * c_stride + 16 * n);
  for (int k = begin; k < depth; k++) {
    f32x16 row[N];
    for (int n = 0; n < N; n++) row[n] = load_f16(b + k * b_stride + 16 * n);
    for (int r = 0; r < R; r++) {
      const f32x16 factor = splat(a[r * a_stride + k]);
      for (int n = 0; n < N; n++) acc[r][n] = fma(factor, row[n], acc[r][n]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int n = 0; n < N; n++) store(c + r * c_stride + 16 * n, acc[r][n]);
}

template <int R, int N>
static void gemm_rows(const float* a, int64_t a_stride, const uint16_t* b, int64_t b_stride, int begin, int depth, float* c, int64_t c_stride, int rows) {
  for (; rows >= R; rows -= R, a += R * a_stride, c += R * c_stride) gemm_tile<R, N>(a, a_stride, b, b_stride, begin, depth, c, c_stride);
  if constexpr (R > 1)
    if (rows > 0) gemm_rows<R - 1, N>(a, a_stride, b, b_stride, begin, depth, c, c_stride, rows);
}

static void gemm(const float* a, int64_t a_stride, const uint16_t* b, int64_t b_stride, int begin, int depth, float* c, int64_t c_stride, int rows, int columns) {
  int n = 0;
  for (; n + 16 * kGemmVectors <= columns; n += 16 * kGemmVectors) gemm_rows<kGemmRows, kGemmVectors>(a, a_stride, b + n, b_stride, begin, depth, c + n, c_stride, rows);
  for (; n < columns; n += 16) gemm_rows<kGemmRows, 1>(a, a_stride, b + n, b_stride, begin, depth, c + n, c_stride, rows);
}

// Pages hold finite numbers only: rows that may not see a position multiply it by zero.
[[gnu::always_inline]] inline u16x16 to_finite_f16(f32x16 v) { return to_f16(minimum(maximum(v, splat(-65504.0f)), splat(65504.0f))); }

static void store_key_value(const float* k, const float* v, const AttendShape& s, uint16_t* page, int slot) {
  const int padded = s.padded_dim();
  for (int head = 0; head < s.kv_heads; head++) {
    uint16_t* keys = page + head * s.page_head_elements();
    uint16_t* values = keys + static_cast<int64_t>(padded) * kPagePositions;
    each_vector(s.head_dim, [&](int i, auto n) {
      uint16_t half[16];
      store(half, to_finite_f16(load_some(k + head * s.head_dim + i, n)));
      for (int j = 0; j < n; j++) keys[static_cast<int64_t>(i + j) * kPagePositions + slot] = half[j];
      store(values + static_cast<int64_t>(slot) * padded + i, to_finite_f16(load_some(v + head * s.head_dim + i, n)));
    });
  }
}

[[gnu::always_inline]] inline void scale_row(float* x, int width, float factor) {
  for (int i = 0; i < width; i += 16) store(x + i, load<f32x16>(x + i) * splat(factor));
}

alignas(64) constexpr int32_t kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Weights of one row's scores of one page, for slots [first, last]; rescales what the row has so far when the peak rises.
[[gnu::always_inline]] inline void soften_row(float* scores, int first, int last, float* sums, int padded, float& peak, float& total) {
  f32x16 highest = splat(-INFINITY);
  for (int i = 0; i < kPagePositions; i += 16) {
    const i32x16 slots = load<i32x16>(kLaneNumbers) + i;
    const f32x16 v = select((slots < splat(first)) | (slots > splat(last)), splat(-INFINITY), load<f32x16>(scores + i));
    store(scores + i, v);
    highest = maximum(highest, v);
  }
  const float page_peak = max_lanes(highest), next = page_peak > peak ? page_peak : peak;
  if (peak == -INFINITY) {
    total = 0.0f;  // sums are zero already
  } else if (next != peak) {
    const float factor = exponential(splat(peak - next))[0];
    total *= factor;
    scale_row(sums, padded, factor);
  }
  f32x16 added{};
  for (int i = 0; i < kPagePositions; i += 16) {
    const f32x16 v = load<f32x16>(scores + i);
    const f32x16 p = select(v == splat(-INFINITY), f32x16{}, exponential(v - splat(next)));
    store(scores + i, p);
    added += p;
  }
  total += sum_lanes(added);
  peak = next;
}

static void attend_partition(const float* queries, const AttendShape& s, int kv_head, PageTable table, int partition, int position, int rows, Partial out, float* scratch) {
  const int padded = s.padded_dim(), group = s.group(), tile = rows * group;
  std::memset(out.sums, 0, sizeof(float) * static_cast<size_t>(tile) * static_cast<size_t>(padded));
  for (int m = 0; m < tile; m++) out.peaks[m] = -INFINITY, out.totals[m] = 0.0f;

  const int last_position = position + rows - 1;
  const int begin = std::max(partition * kPartition, s.first_visible(position));
  const int end = std::min((partition + 1) * kPartition - 1, last_position);
  for (int page = begin / kPagePositions; page <= end / kPagePositions; page++) {
    const uint16_t* keys = table.pages[page - table.first_page] + kv_head * s.page_head_elements();
    const uint16_t* values = keys + static_cast<int64_t>(padded) * kPagePositions;
    const int start = page * kPagePositions;
    std::memset(scratch, 0, sizeof(float) * static_cast<size_t>(tile) * kPagePositions);
    gemm(queries, padded, keys, kPagePositions, 0, s.head_dim, scratch, kPagePositions, tile, kPagePositions);
    for (int m = 0; m < tile; m++) {
      const int at = position + m / group;
      const int first = s.first_visible(at) - start, last = std::min(at - start, kPagePositions - 1);
      float* scores = scratch + static_cast<int64_t>(m) * kPagePositions;
      if (first >= kPagePositions || last < 0)
        std::memset(scores, 0, sizeof(float) * kPagePositions);  // nothing here is visible to this row
      else
        soften_row(scores, first, last, out.sums + static_cast<int64_t>(m) * padded, padded, out.peaks[m], out.totals[m]);
    }
    gemm(scratch, kPagePositions, values, padded, std::max(begin - start, 0), std::min(end - start, kPagePositions - 1) + 1, out.sums, padded, tile, padded);
  }
}

static void join_partial(Partial into, Partial from, int rows, int padded) {
  for (int m = 0; m < rows; m++) {
    if (from.peaks[m] == -INFINITY) continue;
    float* a = into.sums + static_cast<int64_t>(m) * padded;
    const float* b = from.sums + static_cast<int64_t>(m) * padded;
    if (into.peaks[m] == -INFINITY) {
      std::memcpy(a, b, sizeof(float) * static_cast<size_t>(padded));
      into.peaks[m] = from.peaks[m], into.totals[m] = from.totals[m];
      continue;
    }
    const float peak = std::max(into.peaks[m], from.peaks[m]);
    const float keep = exponential(splat(into.peaks[m] - peak))[0], bring = exponential(splat(from.peaks[m] - peak))[0];
    for (int i = 0; i < padded; i += 16) store(a + i, fma(load<f32x16>(b + i), splat(bring), load<f32x16>(a + i) * splat(keep)));
    into.totals[m] = into.totals[m] * keep + from.totals[m] * bring;
    into.peaks[m] = peak;
  }
}
