// The vectors that the kernels are written in, on registers of kRegisterBytes. Included inside the namespace of an instruction set.

template <class T, int Lanes>
using Vector = typename VectorOf<T, Lanes, kRegisterBytes>::type;
using f32x16 = Vector<float, 16>;
using i32x16 = Vector<int32_t, 16>;
using u32x16 = Vector<uint32_t, 16>;
using u16x16 = Vector<uint16_t, 16>;
using u8x64 = Vector<uint8_t, 64>;
using i32x8 = Vector<int32_t, 8>;

[[gnu::always_inline]] inline f32x16 splat(float x) { return splat_to<f32x16>(x); }
[[gnu::always_inline]] inline i32x16 splat(int32_t x) { return splat_to<i32x16>(x); }
