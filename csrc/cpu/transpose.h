// W vectors of W lanes, transposed in registers.
#pragma once

#include <utility>

#include "simd.h"

namespace futurefill {
namespace FF_ISA {

// Lanes of a and, from W on, of b.
template <class S, int... kLane>
FF_INLINE Vec<S> pick(Vec<S> a, Vec<S> b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kLane...);
#else
  return __builtin_shuffle(a, b, typename Simd<S>::Index{kLane...});
#endif
}

// Of every 2 kHalf lanes the low halves of a and b (kFrom 0), or the high ones (kFrom kHalf).
template <class S, int kHalf, int kFrom, int... kLane>
FF_INLINE Vec<S> halves(Vec<S> a, Vec<S> b, std::integer_sequence<int, kLane...>) {
  using Lanes =
      std::integer_sequence<int, (kLane & kHalf ? kLanes<S> - kHalf : 0) + kLane + kFrom...>;
  return pick<S>(a, b, Lanes());
}

// Lane c of vector i becomes lane i of vector c.
template <class S, int kHalf = kLanes<S> / 2>
FF_INLINE void transpose(Vec<S> v[kLanes<S>]) {
  if constexpr (kHalf > 0) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes<S>>();
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<S>; ++i) {
      if (i & kHalf) continue;
      const Vec<S> a = v[i], b = v[i + kHalf];
      v[i] = halves<S, kHalf, 0>(a, b, lanes);
      v[i + kHalf] = halves<S, kHalf, kHalf>(a, b, lanes);
    }
    transpose<S, kHalf / 2>(v);
  }
}

}  // namespace FF_ISA
}  // namespace futurefill
