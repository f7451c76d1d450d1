// Rows of channels, as sequences come, from and to the engine's vectors of channels.
#pragma once

#include "scalar_types.h"
#include "simd.h"
#include "transpose.h"

namespace futurefill {
namespace FF_ISA {

// Positions begin .. begin + n - 1 of `count` channels, times scale, zero outside 0 .. length - 1,
// as n vectors `out_step` values apart. step: elements from a position to the next.
template <class S, class T>
void gather(const T* const rows[], int64_t count, int64_t begin, int64_t n, int64_t length, S scale,
            S* out, int64_t step = 1, int64_t out_step = kLanes<S>) {
  constexpr int64_t W = kLanes<S>, kStrip = 32;
  const int64_t inside = length - begin < n ? (length > begin ? length - begin : 0) : n;
  int64_t t = 0;
  if (count == W && step == 1) {
    for (; t + W <= inside; t += W) {
      Vec<S> v[W];
#pragma GCC unroll 16
      for (int64_t c = 0; c < W; ++c) v[c] = load_io<S>(rows[c] + begin + t, W);
      transpose<S>(v);
#pragma GCC unroll 16
      for (int64_t i = 0; i < W; ++i) store(out + (t + i) * out_step, v[i] * scale);
    }
  }
  for (; t < inside; t += kStrip) {
    const int64_t end = t + kStrip < inside ? t + kStrip : inside;
    for (int64_t c = 0; c < count; ++c) {
      const T* row = rows[c] + begin * step;
      for (int64_t i = t; i < end; ++i) out[i * out_step + c] = S(widen(row[i * step])) * scale;
    }
    for (int64_t c = count; c < W; ++c) {
      for (int64_t i = t; i < end; ++i) out[i * out_step + c] = 0;
    }
  }
  for (int64_t i = inside; i < n; ++i) store(out + i * out_step, Vec<S>{});
}

// (n, W) to rows of `count` channels, `stride` apart.
template <class S>
void scatter(const S* real, int64_t count, int64_t n, S* y, int64_t stride) {
  constexpr int64_t W = kLanes<S>, kStrip = 32;
  int64_t t = 0;
  if (count == W) {
    for (; t + W <= n; t += W) {
      Vec<S> v[W];
#pragma GCC unroll 16
      for (int64_t i = 0; i < W; ++i) v[i] = load(real + (t + i) * W);
      transpose<S>(v);
#pragma GCC unroll 16
      for (int64_t c = 0; c < W; ++c) store(y + c * stride + t, v[c]);
    }
  }
  for (; t < n; t += kStrip) {
    const int64_t end = t + kStrip < n ? t + kStrip : n;
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t i = t; i < end; ++i) y[c * stride + i] = real[i * W + c];
    }
  }
}

}  // namespace FF_ISA
}  // namespace futurefill
