// Whole trees of transform.h's nodes: roots of every radix, and what is below them.
#pragma once

#include <type_traits>

#include "transform.h"

namespace futurefill {
namespace FF_ISA {

inline int log2_of(int64_t n) {
  int log = 0;
  while ((int64_t{1} << log) < n) ++log;
  return log;
}

// depth below the root where powers of 8 begin
inline int root_depth(int log) { return log == 0 ? 0 : (log - 1) % 3 + 1; }

// run(radix) with the root's radix as a constant
template <class F>
FF_INLINE void with_root_radix(int depth, const F& run) {
  switch (depth) {
    case 0:
      return run(std::integral_constant<int, 1>());
    case 1:
      return run(std::integral_constant<int, 2>());
    case 2:
      return run(std::integral_constant<int, 4>());
    default:
      return run(std::integral_constant<int, 8>());
  }
}

template <class S>
void split_any_root(const S* real, const S* tail, S* z, int64_t n, int depth,
                    const Twiddle<S>& root) {
  with_root_radix(depth, [&](auto radix) {
    split_root<S, decltype(radix)::value>(real, tail, z, n, root_stride<S>(n >> depth), root);
  });
}

template <class S>
void merge_any_root(const S* z, S* out, const S* tail, int64_t n, int depth,
                    const Twiddle<S>& root) {
  with_root_radix(depth, [&](auto radix) {
    merge_root<S, decltype(radix)::value>(z, out, tail, n, root_stride<S>(n >> depth), root);
  });
}

// The root x^n - i of complex coefficients re + i im, `step` values from one to the next, into
// children `child` values apart; z may be where they are.
template <class S>
void split_complex_root(const S* re, const S* im, int64_t step, S* z, int64_t n, int depth,
                        int64_t child, const Twiddle<S>& root) {
  const Twiddle<S> t = root;
  with_root_radix(depth, [&](auto radix) {
    constexpr int kRadix = decltype(radix)::value, kOther = kRadix / 2;
    const int64_t part = n / kRadix;
    for (int64_t j = 0; j < part; ++j) {
      Complex<S> v[kRadix];
#pragma GCC unroll 8
      for (int q = 0; q < kRadix; ++q) {
        v[q] = {load(re + (j + q * part) * step), load(im + (j + q * part) * step)};
      }
      if constexpr (kRadix == 8) {
        split8(v, t);
      } else {
#pragma GCC unroll 8
        for (int q = 0; q < kOther; ++q) split2(v[q], v[q + kOther], t.re1, t.im1);
        if constexpr (kRadix == 4) {
          split2(v[0], v[1], t.re2, t.im2);
          split2_i(v[2], v[3], t.re2, t.im2);
        }
      }
#pragma GCC unroll 8
      for (int q = 0; q < kRadix; ++q) store_complex(z + q * child + j * 2 * kLanes<S>, v[q]);
    }
  });
}

// A node of m coefficients, m a power of 8, to its values at the leaves, and back.
template <class S>
void split_below(const TwiddleTables<S>& tables, S* z, int depth, int64_t node, int64_t m) {
  if (m == 1) return;
  split_node(z, m, tables.depth[depth][node]);
  const int64_t child = m / 8 * 2 * kLanes<S>;
  for (int64_t q = 0; q < 8; ++q) {
    if (m == 64) split_node(z + q * child, 8, tables.depth[depth + 3][8 * node + q]);
    if (m > 64) split_below(tables, z + q * child, depth + 3, 8 * node + q, m / 8);
  }
}

template <class S>
void merge_below(const TwiddleTables<S>& tables, S* z, int depth, int64_t node, int64_t m) {
  if (m == 1) return;
  const int64_t child = m / 8 * 2 * kLanes<S>;
  for (int64_t q = 0; q < 8; ++q) {
    if (m == 64) merge_node(z + q * child, 8, tables.depth[depth + 3][8 * node + q]);
    if (m > 64) merge_below(tables, z + q * child, depth + 3, 8 * node + q, m / 8);
  }
  merge_node(z, m, tables.depth[depth][node]);
}

}  // namespace FF_ISA
}  // namespace futurefill
