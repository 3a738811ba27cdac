// Vectors of a fixed number of lanes on registers of any width: one source for every instruction set.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace gemlet {

// A vector wider than the registers is two halves, each of them a register or again a pair. A compiler's own vector that is wider than
// the registers would do, but is kept in memory.
template <class H>
struct Pair {
  using Lane = std::decay_t<decltype(std::declval<H>()[0])>;
  static constexpr int kHalf = sizeof(H) / sizeof(Lane);

  H low, high;

  [[gnu::always_inline]] Lane operator[](int i) const { return i < kHalf ? low[i] : high[i - kHalf]; }
  // The same bits, as a cast does it with the compiler's vectors.
  template <class O>
  [[gnu::always_inline]] explicit operator Pair<O>() const {
    return {(O)low, (O)high};
  }
};

template <class V>
constexpr bool is_pair = false;
template <class H>
constexpr bool is_pair<Pair<H>> = true;

template <class T, int Lanes, int RegisterBytes, bool Fits = (sizeof(T) * Lanes <= RegisterBytes)>
struct VectorOf {
  typedef T type __attribute__((vector_size(sizeof(T) * Lanes)));
};
template <class T, int Lanes, int RegisterBytes>
struct VectorOf<T, Lanes, RegisterBytes, false> {
  using type = Pair<typename VectorOf<T, Lanes / 2, RegisterBytes>::type>;
};

#define GEMLET_OPERATOR(op, result)                                                             \
  template <class H>                                                                            \
  [[gnu::always_inline]] inline auto operator op(Pair<H> a, Pair<H> b)->Pair<result> {          \
    return {a.low op b.low, a.high op b.high};                                                  \
  }                                                                                             \
  template <class H>                                                                            \
  [[gnu::always_inline]] inline auto operator op(Pair<H> a, typename Pair<H>::Lane b)->Pair<result> { \
    return {a.low op b, a.high op b};                                                           \
  }
GEMLET_OPERATOR(+, H)
GEMLET_OPERATOR(-, H)
GEMLET_OPERATOR(*, H)
GEMLET_OPERATOR(/, H)
GEMLET_OPERATOR(&, H)
GEMLET_OPERATOR(|, H)
GEMLET_OPERATOR(^, H)
GEMLET_OPERATOR(<<, H)
GEMLET_OPERATOR(>>, H)
GEMLET_OPERATOR(<, decltype(a.low < a.low))
GEMLET_OPERATOR(>, decltype(a.low > a.low))
GEMLET_OPERATOR(==, decltype(a.low == a.low))
#undef GEMLET_OPERATOR
template <class H>
[[gnu::always_inline]] inline Pair<H> operator-(Pair<H> a) {
  return {-a.low, -a.high};
}
template <class H>
[[gnu::always_inline]] inline Pair<H>& operator+=(Pair<H>& a, Pair<H> b) {
  return a = a + b;
}

// f of the registers of one or several vectors.
template <class F, class... V>
[[gnu::always_inline]] inline auto each_register(F f, V... v) {
  return f(v...);
}
template <class F, class... H>
[[gnu::always_inline]] inline auto each_register(F f, Pair<H>... v) {
  using Result = Pair<decltype(each_register(f, v.low...))>;
  return Result{each_register(f, v.low...), each_register(f, v.high...)};
}

template <class V>
[[gnu::always_inline]] inline V load(const void* p) {
  if constexpr (is_pair<V>) {
    using H = decltype(V::low);
    return {load<H>(p), load<H>(static_cast<const char*>(p) + sizeof(H))};
  } else {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
}

template <class V>
[[gnu::always_inline]] inline void store(void* p, V v) {
  if constexpr (is_pair<V>) {
    store(p, v.low);
    store(static_cast<char*>(p) + sizeof v.low, v.high);
  } else {
    std::memcpy(p, &v, sizeof v);
  }
}

// Written out: adding to zero, the shorter form, is an instruction of its own.
template <class V, class T>
[[gnu::always_inline]] inline V splat_to(T x) {
  constexpr int lanes = sizeof(V) / sizeof(T);
  if constexpr (is_pair<V>) {
    const auto half = splat_to<decltype(V::low)>(x);
    return {half, half};
  } else if constexpr (lanes == 16) {
    return V{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
  } else if constexpr (lanes == 8) {
    return V{x, x, x, x, x, x, x, x};
  } else {
    static_assert(lanes == 4);
    return V{x, x, x, x};
  }
}

template <class M, class V>
[[gnu::always_inline]] inline V select(M mask, V a, V b) {
  return mask ? a : b;
}
template <class M, class H>
[[gnu::always_inline]] inline Pair<H> select(Pair<M> mask, Pair<H> a, Pair<H> b) {
  return {select(mask.low, a.low, b.low), select(mask.high, a.high, b.high)};
}
template <class V>
[[gnu::always_inline]] inline V larger(V a, V b) {
  return select(a > b, a, b);
}
template <class V>
[[gnu::always_inline]] inline V smaller(V a, V b) {
  return select(a < b, a, b);
}

// Joins all lanes, always in the same tree: halves, quarters, eighths, pairs.
template <class V, class F>
[[gnu::always_inline]] inline auto fold_lanes(V v, F f) {
  constexpr size_t lanes = sizeof v / sizeof v[0];
  if constexpr (lanes == 16) {
    v = f(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = f(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = f(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return f(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))[0];
  } else if constexpr (lanes == 8) {
    v = f(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
    v = f(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
    return f(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6))[0];
  } else {
    static_assert(lanes == 4);
    v = f(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
    return f(v, __builtin_shufflevector(v, v, 1, 0, 3, 2))[0];
  }
}
template <class H, class F>
[[gnu::always_inline]] inline auto fold_lanes(Pair<H> v, F f) {
  return fold_lanes(f(v.low, v.high), f);
}
template <class V>
[[gnu::always_inline]] inline auto sum_lanes(V v) {
  return fold_lanes(v, [](auto a, auto b) { return a + b; });
}
template <class V>
[[gnu::always_inline]] inline auto max_lanes(V v) {
  return fold_lanes(v, [](auto a, auto b) { return larger(a, b); });
}

// The sums of two vectors' integer lanes, at the cost of one.
struct TwoSums {
  int32_t a, b;
};
template <class V>
[[gnu::always_inline]] inline TwoSums sum_lanes(V a, V b) {
  V v = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
        __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
  v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  return {v[0], v[8]};
}
template <class H>
[[gnu::always_inline]] inline TwoSums sum_lanes(Pair<H> a, Pair<H> b) {
  return {sum_lanes(a), sum_lanes(b)};
}

// The larger of each two neighbours of two vectors.
template <class V>
[[gnu::always_inline]] inline V max_pairs(V a, V b) {
  constexpr size_t lanes = sizeof a / sizeof a[0];
  if constexpr (lanes == 16)
    return larger(__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
                  __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31));
  else if constexpr (lanes == 8)
    return larger(__builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14), __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15));
  else
    return larger(__builtin_shufflevector(a, b, 0, 2, 4, 6), __builtin_shufflevector(a, b, 1, 3, 5, 7));
}
template <class H>
[[gnu::always_inline]] inline Pair<H> max_pairs(Pair<H> a, Pair<H> b) {
  return {max_pairs(a.low, a.high), max_pairs(b.low, b.high)};
}

// The maxima of each four neighbours of two vectors.
template <class V>
[[gnu::always_inline]] inline auto max_groups(V a, V b) {
  const V pairs = max_pairs(a, b);
  if constexpr (is_pair<V>)
    return max_pairs(pairs.low, pairs.high);
  else
    return larger(__builtin_shufflevector(pairs, pairs, 0, 2, 4, 6, 8, 10, 12, 14), __builtin_shufflevector(pairs, pairs, 1, 3, 5, 7, 9, 11, 13, 15));
}

}  // namespace gemlet
