// Row operations. Included inside the namespace of an instruction set.

// exp(x): 2^n * polynomial(r), |r| <= ln(2) / 2; relative error below 2e-7; exp(0) is exactly 1.
[[gnu::always_inline]] inline f32x16 exponential(f32x16 x) {
  x = minimum(maximum(x, splat(-87.0f)), splat(88.0f));
  const i32x16 n = round_to_int(x * splat(1.44269504f));
  const f32x16 nf = to_float(n);
  f32x16 r = fma(nf, splat(-0.693359375f), x);
  r = fma(nf, splat(2.12194440e-4f), r);
  f32x16 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p * r, r, r) + splat(1.0f);
  return p * (f32x16)((n + 127) << 23);
}

// Calls f(offset, lanes) over a row: whole vectors with a count known to the compiler, then what is left. Sums must not see the padding.
using Whole = std::integral_constant<int, 16>;
template <class Function>
[[gnu::always_inline]] inline void each_vector(int width, Function f) {
  int i = 0;
  for (; i + 16 <= width; i += 16) f(i, Whole{});
  if (i < width) f(i, width - i);
}

[[gnu::always_inline]] inline f32x16 load_some(const float* x, Whole, float = 0) { return load<f32x16>(x); }
[[gnu::always_inline]] inline f32x16 load_some(const float* x, int count, float rest = 0) {
  alignas(64) float lanes[16];
  store(lanes, splat(rest));
  std::memcpy(lanes, x, static_cast<size_t>(count) * 4);
  return load<f32x16>(lanes);
}

[[gnu::always_inline]] inline void store_some(float* out, f32x16 v, Whole) { store(out, v); }
[[gnu::always_inline]] inline void store_some(float* out, f32x16 v, int count) {
  alignas(64) float lanes[16];
  store(lanes, v);
  std::memcpy(out, lanes, static_cast<size_t>(count) * 4);
}

static void add(const float* a, const float* b, int width, float* out) {
  each_vector(width, [&](int i, auto n) { store_some(out + i, load_some(a + i, n) + load_some(b + i, n), n); });
}

// x * rsqrt(mean(x^2) + eps) * weight over each group of the row.
static void norm(const float* x, const float* weight, int width, int group, float eps, float* out) {
  for (int start = 0; start < width; start += group) {
    f32x16 squares{};
    each_vector(group, [&](int i, auto n) {
      const f32x16 v = load_some(x + start + i, n);
      squares = fma(v, v, squares);
    });
    const f32x16 factor = splat(1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(group) + eps));
    each_vector(group, [&](int i, auto n) { store_some(out + start + i, load_some(x + start + i, n) * factor * load_some(weight + i, n), n); });
  }
}

// gelu_tanh(g) * u, with tanh written through exp: gelu_tanh(g) = g / (1 + exp(-2 sqrt(2/pi) (g + 0.044715 g^3))).
static void gelu_gate(const float* gate, const float* up, int width, float* out) {
  each_vector(width, [&](int i, auto n) {
    const f32x16 g = load_some(gate + i, n), u = load_some(up + i, n);
    const f32x16 inner = g * fma(g * g, splat(0.044715f), splat(1.0f));
    store_some(out + i, g / (splat(1.0f) + exponential(inner * splat(-1.5957691216f))) * u, n);
  });
}

// silu(g) * u, silu(g) = g / (1 + exp(-g)).
static void silu_gate(const float* gate, const float* up, int width, float* out) {
  each_vector(width, [&](int i, auto n) {
    const f32x16 g = load_some(gate + i, n), u = load_some(up + i, n);
    store_some(out + i, g / (splat(1.0f) + exponential(g * splat(-1.0f))) * u, n);
  });
}

// Half-split rotation of every head: element i pairs with i + head_dim / 2.
static void rope(const float* x, const float* cos_sin, int width, int head_dim, float* out) {
  const int half = head_dim / 2;
  for (int head = 0; head < width; head += head_dim)
    each_vector(half, [&](int i, auto n) {
      const f32x16 c = load_some(cos_sin + i, n), s = load_some(cos_sin + half + i, n);
      const f32x16 a = load_some(x + head + i, n), b = load_some(x + head + half + i, n);
      store_some(out + head + i, a * c - b * s, n);
      store_some(out + head + half + i, b * c + a * s, n);
    });
}

struct Codes {
  i32x16 half[2];
};

[[gnu::always_inline]] inline float from_bits(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

[[gnu::always_inline]] inline i32x16 clamp(i32x16 v, int most) {
  const i32x16 limit = i32x16{} + most;
  return smaller(larger(v, -limit), limit);
}

// Codes of 32 values at `top` for a value of `reach`, with the block's scale and sums. Blocks too small to scale are zero; the limit
// keeps what is no number from overflowing the sums.
[[gnu::always_inline]] inline Codes encode(const f32x16 (&v)[2], float reach, int top, int limit, QuantisedBlock& block) {
  const float inverse = reach >= 1e-34f ? static_cast<float>(top) / reach : 0.0f;  // 32512 / 1e-36 would be infinite
  Codes codes;
  block.scale = reach / static_cast<float>(top);
  for (int h = 0; h < 2; h++) codes.half[h] = clamp(round_to_int(v[h] * splat(inverse)), limit);
  const TwoSums sums = sum_lanes(codes.half[0], codes.half[1]);
  block.half_sums[0] = sums.a, block.half_sums[1] = sums.b;
  block.sum = block.half_sums[0] + block.half_sums[1];
  return codes;
}

[[gnu::always_inline]] inline void quantise_precise(const f32x16 (&v)[2], PreciseBlock& block) {
  const Codes codes = encode(v, from_bits(max_lanes(max_groups((i32x16)absolute(v[0]), (i32x16)absolute(v[1])))), 32512, 32512, block.high);
  for (int h = 0; h < 2; h++) {
    const i32x16 upper = (codes.half[h] + 128) >> 8;
    store_bytes(block.high.codes + 16 * h, upper);
    store_bytes(block.low + 16 * h, codes.half[h] - (upper << 8));
  }
}

// The scale is set by the largest value outside the spare group, or by half of the largest of all.
[[gnu::always_inline]] inline void quantise_plain(const f32x16 (&v)[2], QuantisedBlock& block) {
  // A group's peak as integer bits, which order like the floats (what is no number above all, so that it spoils the block's scale and
  // is seen), with the group's number in the lowest three.
  alignas(32) static constexpr int32_t kNumbers[8] = {7, 6, 5, 4, 3, 2, 1, 0};
  const i32x8 peaks = (max_groups((i32x16)absolute(v[0]), (i32x16)absolute(v[1])) & ~7) | load<i32x8>(kNumbers);
  const int32_t most = max_lanes(peaks), next = max_lanes(select(peaks == most, i32x8{}, peaks));
  const int group = 7 - (most & 7);
  const Codes codes = encode(v, std::max(from_bits(most | 7) * 0.5f, from_bits(next | 7)), 127, 254, block);
  alignas(64) int8_t extra[kBlock];
  for (int h = 0; h < 2; h++) {
    const i32x16 kept = clamp(codes.half[h], 127);
    store_bytes(block.codes + 16 * h, kept);
    store_bytes(extra + 16 * h, codes.half[h] - kept);
  }
  std::memcpy(block.spare, extra + 4 * group, 4);
  block.spare_offset = 64 * (group % 4);
  block.spare_shift = group / 4 * 4;
}

static void quantise(const float* x, const Quantised& to, int row) {
  uint8_t* block = to.row(row);
  for (int b = 0; b < to.blocks(); b++, block += to.stride()) {
    const f32x16 v[2] = {load<f32x16>(x + b * kBlock), load<f32x16>(x + b * kBlock + 16)};
    if (to.precise)
      quantise_precise(v, *reinterpret_cast<PreciseBlock*>(block));
    else
      quantise_plain(v, *reinterpret_cast<QuantisedBlock*>(block));
  }
}
