// Rows of channels, as sequences come, from and to the engine's vectors of channels.
#pragma once

#include "simd.h"

namespace futurefill {
namespace FF_ISA {

// Positions begin .. begin + n - 1 of `count` channels, zero outside 0 .. length - 1, as (n, W).
// step: elements from a position to the next.
template <class S>
void gather(const S* const rows[], int64_t count, int64_t begin, int64_t n, int64_t length, S scale,
            S* out, int64_t step = 1) {
  constexpr int64_t W = kLanes<S>;
  const int64_t inside = length - begin < n ? (length > begin ? length - begin : 0) : n;
  constexpr int64_t kStrip = 32;
  for (int64_t t = 0; t < inside; t += kStrip) {
    const int64_t end = t + kStrip < inside ? t + kStrip : inside;
    for (int64_t c = 0; c < count; ++c) {
      const S* row = rows[c] + begin * step;
      for (int64_t i = t; i < end; ++i) out[i * W + c] = row[i * step] * scale;
    }
    for (int64_t c = count; c < W; ++c) {
      for (int64_t i = t; i < end; ++i) out[i * W + c] = 0;
    }
  }
  for (int64_t i = inside * W; i < n * W; ++i) out[i] = 0;
}

// (n, W) to rows of `count` channels, `stride` apart.
template <class S>
void scatter(const S* real, int64_t count, int64_t n, S* y, int64_t stride) {
  constexpr int64_t W = kLanes<S>, kStrip = 32;
  for (int64_t t = 0; t < n; t += kStrip) {
    const int64_t end = t + kStrip < n ? t + kStrip : n;
    for (int64_t c = 0; c < count; ++c) {
      for (int64_t i = t; i < end; ++i) y[c * stride + i] = real[i * W + c];
    }
  }
}

}  // namespace FF_ISA
}  // namespace futurefill
