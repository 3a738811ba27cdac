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

// The last group of lanes of a row: rows are padded, so whole vectors may be written, but sums must not see the padding.
[[gnu::always_inline]] inline f32x16 load_some(const float* x, int count) {
  f32x16 v{};
  std::memcpy(&v, x, static_cast<size_t>(count) * 4);
  return v;
}

template <class Function>
[[gnu::always_inline]] inline void each_vector(int width, Function f) {
  for (int i = 0; i < width; i += 16) f(i, width - i < 16 ? width - i : 16);
}

[[gnu::always_inline]] inline void store_some(float* out, f32x16 v, int count) { std::memcpy(out, &v, static_cast<size_t>(count) * 4); }

static void add(const float* a, const float* b, int width, float* out) {
  each_vector(width, [&](int i, int n) { store_some(out + i, load_some(a + i, n) + load_some(b + i, n), n); });
}

// x * rsqrt(mean(x^2) + eps) * weight over each group of the row.
static void norm(const float* x, const float* weight, int width, int group, float eps, float* out) {
  for (int start = 0; start < width; start += group) {
    f32x16 squares{};
    each_vector(group, [&](int i, int n) {
      const f32x16 v = load_some(x + start + i, n);
      squares = fma(v, v, squares);
    });
    const f32x16 factor = splat(1.0f / std::sqrt(sum_lanes(squares) / static_cast<float>(group) + eps));
    each_vector(group, [&](int i, int n) { store_some(out + start + i, load_some(x + start + i, n) * factor * load_some(weight + i, n), n); });
  }
}

// gelu_tanh(g) * u, with tanh written through exp: gelu_tanh(g) = g / (1 + exp(-2 sqrt(2/pi) (g + 0.044715 g^3))).
static void gelu_gate(const float* gate, const float* up, int width, float* out) {
  each_vector(width, [&](int i, int n) {
    const f32x16 g = load_some(gate + i, n), u = load_some(up + i, n);
    const f32x16 inner = g * fma(g * g, splat(0.044715f), splat(1.0f));
    store_some(out + i, g / (splat(1.0f) + exponential(inner * splat(-1.5957691216f))) * u, n);
  });
}

// Half-split rotation of every head: element i pairs with i + head_dim / 2.
static void rope(const float* x, const float* cos_sin, int width, int head_dim, float* out) {
  const int half = head_dim / 2;
  for (int head = 0; head < width; head += head_dim)
    each_vector(half, [&](int i, int n) {
      const f32x16 c = load_some(cos_sin + i, n), s = load_some(cos_sin + half + i, n);
      const f32x16 a = load_some(x + head + i, n), b = load_some(x + head + half + i, n);
      store_some(out + head + i, a * c - b * s, n);
      store_some(out + head + half + i, b * c + a * s, n);
    });
}

// Symmetric codes in blocks of 32: 8 bits, or 16 bits in two planes whose low part is signed too.
static void quantise(const float* x, const Quantised& to, int row) {
  const int blocks = to.blocks();
  const int64_t start = static_cast<int64_t>(row) * to.columns;
  const float top = to.low ? 32512.0f : 127.0f;
  for (int b = 0; b < blocks; b++) {
    f32x16 v[2] = {load<f32x16>(x + b * kBlock), load<f32x16>(x + b * kBlock + 16)};
    const float peak = max_lanes(maximum(absolute(v[0]), absolute(v[1])));
    const float inverse = peak > 0.0f ? top / peak : 0.0f;
    to.scales[static_cast<int64_t>(row) * blocks + b] = peak / top;
    for (int h = 0; h < 2; h++) {
      const i32x16 code = round_to_int(v[h] * splat(inverse));
      int32_t codes[16], sum = 0;
      store(codes, code);
      int8_t* high = to.high + start + b * kBlock + h * 16;
      if (to.low) {
        int8_t* low = to.low + start + b * kBlock + h * 16;
        for (int i = 0; i < 16; i++) {
          const int upper = (codes[i] + 128) >> 8;
          high[i] = static_cast<int8_t>(upper);
          low[i] = static_cast<int8_t>(codes[i] - 256 * upper);
          sum += codes[i];
        }
      } else {
        for (int i = 0; i < 16; i++) {
          high[i] = static_cast<int8_t>(codes[i]);
          sum += codes[i];
        }
      }
      to.sums[(static_cast<int64_t>(row) * blocks + b) * 2 + h] = sum;
    }
  }
}
