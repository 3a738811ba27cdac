// A running sum of products of weight codes, in fours as in dot4. Included where dot4 is the best way there is.

constexpr int kCodeOrigin = 0;  // what is taken off an 8-bit code before it is multiplied

template <bool Nibble>
struct Products {
  i32x16 sum;

  [[gnu::always_inline]] void add(u8x64 codes, const int8_t* x) { sum = dot4(sum, codes, x); }
  // Beside the eight groups of a block, the one more that a way of summing must have room for.
  [[gnu::always_inline]] void add_spare(u8x64 codes, const int8_t* x) { add(codes, x); }
  [[gnu::always_inline]] i32x16 total() const { return sum; }
};
