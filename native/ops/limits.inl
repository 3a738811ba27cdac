// What the processor itself can do with this instruction set: its own registers and products, on nothing but the nearest cache.
// Included inside the namespace of one instruction set.

#if defined(__AVX512VNNI__)
using Bytes = __m512i;
constexpr int kByteProducts = 64;
using Floats = __m512;
[[gnu::always_inline]] inline Bytes multiply_add(Bytes a, Bytes b, Bytes sum) { return _mm512_dpbusd_epi32(sum, a, b); }
[[gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm512_fmadd_ps(a, b, sum); }
#elif defined(__AVX2__)
using Bytes = __m256i;
constexpr int kByteProducts = 32;
using Floats = __m256;
// The fastest way, which the kernels cannot always take: sums of two products must fit into 16 bits.
[[gnu::always_inline]] inline Bytes multiply_add(Bytes a, Bytes b, Bytes sum) {
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
}
[[gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats sum) { return _mm256_fmadd_ps(a, b, sum); }
#elif defined(GEMLET_NEON)
using Bytes = int8x16_t;
using Floats = float32x4_t;
#if defined(__ARM_FEATURE_MATMUL_INT8)
// Two by eight times eight by two, which the kernels do not use yet.
constexpr int kByteProducts = 32;
[[gnu::always_inline]] inline Bytes multiply_add(Bytes a, Bytes b, Bytes sum) { return vreinterpretq_s8_s32(vmmlaq_s32(vreinterpretq_s32_s8(sum), a, b)); }
#else
constexpr int kByteProducts = 16;
[[gnu::always_inline]] inline Bytes multiply_add(Bytes a, Bytes b, Bytes sum) { return vreinterpretq_s8_s32(vdotq_s32(vreinterpretq_s32_s8(sum), a, b)); }
#endif
[[gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats sum) { return vfmaq_f32(sum, a, b); }
#else
using Bytes = uint8_t __attribute__((vector_size(16)));
constexpr int kByteProducts = 16;
using Floats = float __attribute__((vector_size(16)));
// No exact product of bytes in general: they are multiplied in 16 bits, as this vector of four times four.
[[gnu::always_inline]] inline Bytes multiply_add(Bytes a, Bytes b, Bytes sum) {
  using Shorts = uint16_t __attribute__((vector_size(16)));
  const Shorts x = (Shorts)a, y = (Shorts)b;
  return (Bytes)((Shorts)sum + (x & 0xff) * (y & 0xff) + (x >> 8) * (y >> 8));
}
[[gnu::always_inline]] inline Floats multiply_add(Floats a, Floats b, Floats sum) { return a * b + sum; }
#endif

// The compiler must believe that memory has changed and is looked at.
inline void look_at(const void* p) { asm volatile("" : : "g"(p) : "memory"); }

// Sums of every left with every right vector, as a tile of a matrix product has them; returns the multiply-adds done. Independent sums
// hide the time of one product; how many that takes, and how many registers there are, differs: the caller takes the best shape.
template <class Vector, int Elements, int Left, int Right>
double multiply(int64_t rounds) {
  Vector a[Left] = {}, b[Right] = {}, sums[Left * Right] = {};
  look_at(a);
  look_at(b);
  for (int64_t round = 0; round < rounds; round++) {
    look_at(nullptr);
#pragma GCC unroll 4
    for (int i = 0; i < Left; i++)
#pragma GCC unroll 4
      for (int j = 0; j < Right; j++) sums[i * Right + j] = multiply_add(a[i], b[j], sums[i * Right + j]);
  }
  // Of a copy: what has an address that others know would be stored in every round.
#pragma GCC unroll 16
  for (int i = 0; i < Left * Right; i++) {
    const Vector copy = sums[i];
    look_at(&copy);
  }
  return static_cast<double>(Elements) * Left * Right * static_cast<double>(rounds);
}

template <int Left, int Right>
double multiply_bytes(int64_t rounds) {
  return multiply<Bytes, kByteProducts, Left, Right>(rounds);
}
template <int Left, int Right>
double multiply_floats(int64_t rounds) {
  return multiply<Floats, sizeof(Floats) / 4, Left, Right>(rounds);
}

// From several places at once: what fetches ahead stops at the end of every page, and others go on meanwhile.
// `count` is a multiple of 256. Nothing is computed that would take longer than the reading.
template <int Places>
void read_memory(const uint8_t* bytes, int64_t count) {
  constexpr int kVectors = 64 / sizeof(Bytes);
  const int64_t share = count / Places / 64;  // lines
  Bytes sums[Places * kVectors] = {};
  for (int64_t line = 0; line < share; line++) {
#pragma GCC unroll 4
    for (int place = 0; place < Places; place++) {
      const Bytes* from = reinterpret_cast<const Bytes*>(bytes + (place * share + line) * 64);
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; i++) sums[place * kVectors + i] ^= from[i];
    }
  }
  look_at(sums);
}

extern const LimitKernels kLimitKernels;
const LimitKernels kLimitKernels = {{multiply_bytes<2, 4>, multiply_bytes<3, 4>, multiply_bytes<4, 4>}, {multiply_floats<2, 4>, multiply_floats<3, 4>, multiply_floats<4, 4>}, {read_memory<1>, read_memory<2>, read_memory<4>}};
