// Filter spectra of a level that makes them when it fires: one complex transform of taps each.
#pragma once

#include "channel_rows.h"
#include "engine.h"
#include "fill_tree.h"
#include "simd.h"

namespace futurefill {
namespace FF_ISA {

// Taps begin .. begin + count - 1 of the channels from c on, times scale, to every other vector of
// out; zero where there are none.
template <class S, class T>
void gather_taps(const Taps& taps, int64_t layer, int64_t c, int64_t begin, int64_t count, S scale,
                 S* out) {
  constexpr int64_t W = kLanes<S>;
  const T* rows[W];
  for (int64_t i = 0; i < W; ++i) {
    const int64_t row = (c + i) / taps.channels;  // lanes behind the last channel repeat it
    const int64_t filter = row < taps.filters ? row : taps.filters - 1;
    rows[i] =
        static_cast<const T*>(taps.data) + layer * taps.layer_stride + filter * taps.filter_stride;
  }
  gather<S, T>(rows, W, begin, count, taps.count, scale, out, 1, 2 * W);
}

// H_k of a job's channels over n, as a fill multiplies it: taps (k-1) T .. (k+1) T - 1 of the
// level. z: (n, 2, W).
template <class S, class T>
void make_spectrum(const FillParams& a, int64_t job, int64_t k, int64_t n, S* z) {
  constexpr int64_t W = kLanes<S>;
  const int64_t layer = job / a.tiles, c = job % a.tiles * W, gap = n - a.block;
  const S scale = S(1) / S(n);
  for (int64_t j = 0; j < gap; ++j) {
    for (int64_t i = 0; i < W; ++i) {
      z[2 * j * W + i] = 0;
      z[(2 * (n - 1 - j) + 1) * W + i] = 0;
    }
  }
  gather_taps<S, T>(a.taps, layer, c, (k - 1) * a.block, a.block, scale, z + 2 * gap * W);
  gather_taps<S, T>(a.taps, layer, c, k * a.block, a.block, scale, z + W);
  const int log = log2_of(n), depth = root_depth(log);
  const TwiddleTables<S>& tables = twiddle_tables<S>(log);
  const int64_t nodes = int64_t{1} << depth, m = n / nodes, child = m * 2 * W;
  split_complex_root(z, z + W, 2 * W, z, n, depth, child, tables.depth[0][0]);
  for (int64_t q = 0; q < nodes; ++q) split_below(tables, z + q * child, depth, q, m);
}

// Spectra of the newest job, which later jobs of the same filter use again.
template <class S>
struct Made {
  int64_t layer = -1, filter = -1;

  // H_1 .. H_count of a job to z (count, n, 2, W)
  void make(const FillParams& a, int64_t job, int64_t count, int64_t n, S* z) {
    const int64_t first = job % a.tiles * kLanes<S>, own = job / a.tiles;
    const bool shared = a.taps.channels % kLanes<S> == 0;
    if (shared && own == layer && first / a.taps.channels == filter) return;
    layer = own, filter = shared ? first / a.taps.channels : -1;
    for (int64_t k = 1; k <= count; ++k) {
      S* out = z + (k - 1) * n * 2 * kLanes<S>;
      a.taps.type == Scalar::kBFloat16 ? make_spectrum<S, BFloat16>(a, job, k, n, out)
                                       : make_spectrum<S, S>(a, job, k, n, out);
    }
  }
};

}  // namespace FF_ISA
}  // namespace futurefill
