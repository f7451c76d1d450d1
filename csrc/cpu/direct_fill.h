// A future fill of a small block as a Toeplitz product with the taps themselves.
//
// ring[p + j] += sum_{q=0 .. blocks * T - 1} taps[q + 1 + j] * input[p - 1 - q],  0 <= j < T
#pragma once

#include "engine.h"
#include "narrow_ring.h"
#include "scratch.h"
#include "simd.h"

namespace futurefill {
namespace FF_ISA {

// kCount outputs kept in registers; `taps` points at the tap of the newest input for output 0
template <class S, bool kShared, int kCount>
FF_INLINE void toeplitz(S* out, const S* newest, const S* taps, int64_t n_inputs) {
  constexpr int W = kLanes<S>;
  constexpr int G = kShared ? 1 : W;
  Vec<S> sum[kCount];
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) sum[j] = load(out + j * W);
  for (int64_t q = 0; q < n_inputs; ++q) {
    const Vec<S> x = load(newest - q * W);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) {
      sum[j] = x * load_filter<S, kShared>(taps + (q + j) * G) + sum[j];
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) store(out + j * W, sum[j]);
}

// out (n_outputs, W), behind the inputs, += their products with the taps
template <class S, bool kShared>
FF_INLINE void add_products(S* out, const S* taps, int64_t n_inputs, int64_t n_outputs) {
  constexpr int W = kLanes<S>;
  constexpr int G = kShared ? 1 : W;
  const S* newest = out - W;
  int64_t j = 0;
  for (; j + 8 <= n_outputs; j += 8) {
    toeplitz<S, kShared, 8>(out + j * W, newest, taps + (1 + j) * G, n_inputs);
  }
  for (; j < n_outputs; ++j) {
    toeplitz<S, kShared, 1>(out + j * W, newest, taps + (1 + j) * G, n_inputs);
  }
}

template <class S, bool kShared>
void direct_fill(const FillParams& a, int64_t layer, int64_t tile) {
  constexpr int W = kLanes<S>;
  constexpr int G = kShared ? 1 : W;
  const int64_t filter =
      layer * a.filter_tiles + (kShared ? tile * W / a.channels_per_filter : tile);
  const S* taps =
      static_cast<const S*>(a.spectra) + (filter * a.spectra_rows + a.spectra_offset) * 2 * G;
  for (int64_t r = 0; r < a.n_rows; ++r) {
    const RowAt at = a.rows[r];
    const int64_t state = (layer * a.batch + at.state) * a.tiles + tile;
    const int64_t i = at.position / a.block % a.radix;
    const int64_t n_inputs = (i < a.n_spectra ? i : a.n_spectra) * a.block;
    const int64_t left = a.length - at.position;
    const int64_t n_outputs = left < a.block ? left : a.block;
    if constexpr (sizeof(S) == sizeof(float)) {
      if (is_narrow<S>(a)) {
        const int64_t values = (n_inputs + n_outputs) * W;
        S* inputs = static_cast<S*>(thread_scratch(values * int64_t{sizeof(S)}));
        S* sums = inputs + n_inputs * W;
        const int64_t job = layer * a.tiles + tile;
        read_slots(a, job, at, -n_inputs, n_inputs, inputs);
        for (int64_t m = 0; m < n_outputs * W; ++m) sums[m] = 0;
        add_products<S, kShared>(sums, taps, n_inputs, n_outputs);
        add_to_slots(a, job, at, n_outputs, sums);
        continue;
      }
    }
    S* out = static_cast<S*>(a.ring) + (state * a.slots + at.position) * W;
    add_products<S, kShared>(out, taps, n_inputs, n_outputs);
  }
}

}  // namespace FF_ISA
}  // namespace futurefill
