// Bounds on the head's logits from its sketch. Included inside the namespace of an instruction set.

// y[d] of panels [begin, end) of the inverse, summed in double.
static void head_project(const HeadSketch& s, const double* x, double* y, int begin, int end) {
  for (int panel = begin; panel < end; panel++) {
    const float* in = s.inverse + static_cast<int64_t>(panel) * s.columns * kPanel;
    double sums[kPanel] = {};
    for (int k = 0; k < s.columns; k++, in += kPanel)
      for (int i = 0; i < kPanel; i++) sums[i] += static_cast<double>(in[i]) * x[k];
    std::copy_n(sums, kPanel, y + panel * kPanel);
  }
}

// x where the bit of a lane is set, elsewhere -inf.
[[gnu::always_inline]] inline f32x16 only(uint32_t bits, f32x16 x) {
  alignas(64) static constexpr int32_t lanes[kPanel] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
  const i32x16 lane = load<i32x16>(lanes);
  return select((splat(static_cast<int32_t>(bits)) & lane) == lane, x, splat(-INFINITY));
}

// Upper bounds of the logits of panels [begin, end), -inf where a row is not allowed; `best` becomes the `count` rows of the largest
// estimates among those it has seen. `allowed`: of each panel, null for all.
static void head_scan(const HeadSketch& s, const HeadQuery& q, const uint16_t* allowed, int begin, int end, float* bounds, int count, std::vector<Candidate>& best) {
  constexpr int kAhead = 4096;
  const int bytes = s.bytes / 4, nibbles = s.nibbles / 8, pairs = (s.columns - s.bytes - s.nibbles) / 16;
  const uint8_t* p = s.panels + begin * s.panel_bytes();
  for (int panel = begin; panel < end; panel++) {
    const uint32_t bits = allowed ? allowed[panel] : 0xffff;
    if (bits == 0) {
      store(bounds + panel * kPanel, splat(-INFINITY));
      p += s.panel_bytes();
      continue;
    }
    i32x16 high[4]{}, low[4]{};
    const int8_t *x = q.high.data(), *y = q.low.data();
    const auto add = [&](int i, u8x64 codes) {
      high[i] = dot4(high[i], codes, x);
      low[i] = dot4(low[i], codes, y);
      x += 4, y += 4;
    };
    for (int v = 0; v < bytes; v++, p += 64) add(0, load<u8x64>(p));
    for (int v = 0; v < nibbles; v += 2, p += 128) {
      __builtin_prefetch(p + kAhead);
      __builtin_prefetch(p + kAhead + 64);
      const u8x64 a = load<u8x64>(p), b = load<u8x64>(p + 64);
      add(0, a & 15);
      add(1, (u8x64)((u32x16)a >> 4) & 15);
      add(2, b & 15);
      add(3, (u8x64)((u32x16)b >> 4) & 15);
    }
    for (int v = 0; v < pairs; v++, p += 64) {
      __builtin_prefetch(p + kAhead);
      const u8x64 c = load<u8x64>(p);
      add(0, c & 3);
      add(1, (u8x64)((u32x16)c >> 2) & 3);
      add(2, (u8x64)((u32x16)c >> 4) & 3);
      add(3, (u8x64)((u32x16)c >> 6) & 3);
    }
    const i32x16 sum = ((high[0] + high[1] + high[2] + high[3]) << 8) + (low[0] + low[1] + low[2] + low[3]);
    f32x16 estimate = to_float(sum) * splat(q.scale) + splat(q.offset), bound = estimate + load<f32x16>(p) * splat(q.reach);
    if (bits != 0xffff) estimate = only(bits, estimate), bound = only(bits, bound);
    store(bounds + panel * kPanel, bound);
    p += 64;
    if (static_cast<int>(best.size()) == count && !any_above(estimate, best.front().value)) continue;
    for (int i = 0; i < kPanel && panel * kPanel + i < s.rows; i++) {
      if (!(bits >> i & 1)) continue;
      const Candidate c{estimate[i], panel * kPanel + i};
      if (static_cast<int>(best.size()) < count) {
        best.push_back(c);
        std::push_heap(best.begin(), best.end(), better);
      } else if (better(c, best.front())) {
        std::pop_heap(best.begin(), best.end(), better);
        best.back() = c;
        std::push_heap(best.begin(), best.end(), better);
      }
    }
  }
}

// The tighter bound of one row, from the one that `head_scan` gave and its fine codes.
static float head_refine(const HeadSketch& s, const HeadQuery& q, int row, float bound) {
  const uint8_t* codes = s.fine + row * s.fine_bytes();
  i32x16 high[2]{}, low[2]{};
  for (int64_t v = 0; v < s.fine_bytes(); v += 64) {
    const u8x64 c = load<u8x64>(codes + v), halves[2] = {c & 15, (u8x64)((u32x16)c >> 4) & 15};
    for (int i = 0; i < 2; i++) {
      high[i] = dot_each(high[i], halves[i], q.high.data() + 2 * v + 64 * i);
      low[i] = dot_each(low[i], halves[i], q.low.data() + 2 * v + 64 * i);
    }
  }
  const int32_t sum = sum_lanes(((high[0] + high[1]) << 8) + (low[0] + low[1]));
  return bound - s.drops[row] * q.reach + (static_cast<float>(sum) * q.fine_scale + q.fine_offset);
}

// Rows of panels [begin, end) that may reach `least` are in doubt; those that still may with their fine codes are likely. Fine codes lie
// apart, so all that are needed are known, and asked for, well before they are read.
static int64_t head_doubts(const HeadSketch& s, const HeadQuery& q, const float* bounds, float least, int begin, int end, std::vector<int32_t>& likely) {
  constexpr size_t kAhead = 12;
  const float below = std::nextafter(least, -INFINITY);  // an equal value may win by its smaller id
  std::vector<int32_t> doubtful;
  for (int panel = begin; panel < end; panel++) {
    const float* b = bounds + panel * kPanel;
    if (!any_above(load<f32x16>(b), below)) continue;
    for (int i = 0; i < kPanel && panel * kPanel + i < s.rows; i++)
      if (b[i] >= least) doubtful.push_back(panel * kPanel + i);
  }
  const auto fetch = [&](size_t i) {
    if (i >= doubtful.size()) return;
    for (int64_t line = 0; line < s.fine_bytes(); line += 64) __builtin_prefetch(s.fine + doubtful[i] * s.fine_bytes() + line);
    __builtin_prefetch(s.drops + doubtful[i]);
  };
  for (size_t i = 0; i < kAhead; i++) fetch(i);
  for (size_t i = 0; i < doubtful.size(); i++) {
    fetch(i + kAhead);
    if (head_refine(s, q, doubtful[i], bounds[doubtful[i]]) >= least) likely.push_back(doubtful[i]);
  }
  return static_cast<int64_t>(doubtful.size());
}
