// y = post * (ring[p] + sum_{s <= p % T_0} taps[s] x_{p-s} + skip * x);
// undo[p % undo_slots] = ring[p]; ring[p] = x.
#include "engine.h"
#include "scalar_types.h"
#include "simd.h"

namespace futurefill {
namespace FF_ISA {

namespace {

// sum_{s=1..n} taps[s] * history[-s]; `history` points at the slot of the newest input
template <class S, bool kShared>
FF_INLINE Vec<S> dot_history(const S* history, const S* taps, int64_t n, Vec<S> sum) {
  constexpr int W = kLanes<S>;
  constexpr int G = kShared ? 1 : W;
  // four sums hide the latency of the multiply-add
  Vec<S> sum1{}, sum2{}, sum3{};
  int64_t s = 1;
  for (; s + 3 <= n; s += 4) {
    sum = load(history - s * W) * load_filter<S, kShared>(taps + s * G) + sum;
    sum1 = load(history - (s + 1) * W) * load_filter<S, kShared>(taps + (s + 1) * G) + sum1;
    sum2 = load(history - (s + 2) * W) * load_filter<S, kShared>(taps + (s + 2) * G) + sum2;
    sum3 = load(history - (s + 3) * W) * load_filter<S, kShared>(taps + (s + 3) * G) + sum3;
  }
  for (; s <= n; ++s) {
    sum = load(history - s * W) * load_filter<S, kShared>(taps + s * G) + sum;
  }
  return (sum + sum1) + (sum2 + sum3);
}

// The same for a number of taps known to the compiler.
template <class S, bool kShared, int kTaps>
FF_INLINE Vec<S> dot_fixed(const S* history, const S* taps, Vec<S> sum) {
  constexpr int W = kLanes<S>;
  constexpr int G = kShared ? 1 : W;
  Vec<S> odd{};
#pragma GCC unroll 8
  for (int s = 1; s <= kTaps; ++s) {
    Vec<S>& part = s % 2 ? odd : sum;
    part = load(history - s * W) * load_filter<S, kShared>(taps + s * G) + part;
  }
  return kTaps ? sum + odd : sum;
}

constexpr int kAnyTaps = -1;
constexpr int kFixedTaps =
    8;  // up to which the loop over tiles is compiled for each number of taps

// kTaps: position % T_0 of every row, or kAnyTaps.
template <class S, class IO, bool kShared, int kTaps>
void step_tiles(const StepParams& a, int64_t tile_begin, int64_t tile_end) {
  constexpr int W = kLanes<S>;
  constexpr int G = kShared ? 1 : W;
  const IO* u = static_cast<const IO*>(a.u);
  const IO* pre = static_cast<const IO*>(a.pre);
  const IO* post = static_cast<const IO*>(a.post);
  IO* y = static_cast<IO*>(a.y);
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    const int64_t c = tile * W;
    const int64_t count = a.channels - c < W ? a.channels - c : W;
    const int64_t filter = kShared ? c / a.channels_per_filter : tile;
    const S* taps = static_cast<const S*>(a.taps) + filter * a.block * G;
    Vec<S> tap0 = load_filter<S, kShared>(taps);
    if (a.skip) tap0 += load(static_cast<const S*>(a.skip) + c);
    for (int64_t r = 0; r < a.n_rows; ++r) {
      const RowAt row = a.rows[r];
      const int64_t at = a.stored == a.state ? row.position : row.position % a.slots;
      S* slot = static_cast<S*>(a.ring) + ((row.state * a.tiles + tile) * a.slots + at) * W;
      // the next tiles' slots: tiles are far apart in memory
      if (tile + 8 < tile_end) __builtin_prefetch(slot + 8 * a.slots * W, 1);
      Vec<S> x = load_io<S>(u + row.io * a.u_stride + c, count);
      if (pre) x *= load_io<S>(pre + row.io * a.pre_stride + c, count);
      const Vec<S> pending = load(slot);
      if (a.undo) {
        const int64_t kept = a.undo_slots == 1 ? 0 : row.position % a.undo_slots;
        const int64_t place = (row.state * a.tiles + tile) * a.undo_slots + kept;
        store(static_cast<S*>(a.undo) + place * W, pending);
      }
      Vec<S> sum = tap0 * x + pending;
      if constexpr (kTaps == kAnyTaps) {
        sum = dot_history<S, kShared>(slot, taps, row.position % a.block, sum);
      } else {
        sum = dot_fixed<S, kShared, kTaps>(slot, taps, sum);
      }
      if (post) sum *= load_io<S>(post + row.io * a.post_stride + c, count);
      store(slot, x);
      store_io<S>(y + row.io * a.y_stride + c, sum, count);
    }
  }
}

// Number of taps that every row needs, or kAnyTaps.
int64_t common_taps(const StepParams& a) {
  const int64_t taps = a.n_rows ? a.rows[0].position % a.block : 0;
  for (int64_t r = 1; r < a.n_rows; ++r) {
    if (a.rows[r].position % a.block != taps) return kAnyTaps;
  }
  return taps;
}

template <class S, class IO, bool kShared, int kTaps>
void by_taps(const StepParams& a, int64_t taps, int64_t tile_begin, int64_t tile_end) {
  if constexpr (kTaps == kFixedTaps || sizeof(S) != sizeof(IO)) {
    step_tiles<S, IO, kShared, kAnyTaps>(a, tile_begin, tile_end);
  } else {
    taps == kTaps ? step_tiles<S, IO, kShared, kTaps>(a, tile_begin, tile_end)
                  : by_taps<S, IO, kShared, kTaps + 1>(a, taps, tile_begin, tile_end);
  }
}

template <class S, class IO>
void by_filter(const StepParams& a, int64_t tile_begin, int64_t tile_end) {
  const int64_t taps = common_taps(a);
  a.channels_per_filter ? by_taps<S, IO, true, 0>(a, taps, tile_begin, tile_end)
                        : by_taps<S, IO, false, 0>(a, taps, tile_begin, tile_end);
}

template <class S>
void by_io(const StepParams& a, int64_t tile_begin, int64_t tile_end) {
  switch (a.io) {
    case Scalar::kFloat32:
      return by_filter<S, float>(a, tile_begin, tile_end);
    case Scalar::kFloat64:
      return by_filter<S, double>(a, tile_begin, tile_end);
    case Scalar::kBFloat16:
      return by_filter<S, BFloat16>(a, tile_begin, tile_end);
    case Scalar::kFloat16:
      return by_filter<S, Float16>(a, tile_begin, tile_end);
  }
}

// The newest inputs become what a ring of 16 bits can hold.
template <class H>
void round_inputs(const StepParams& a, int64_t tile_begin, int64_t tile_end) {
  constexpr int W = kLanes<float>;
  for (int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (int64_t r = 0; r < a.n_rows; ++r) {
      const RowAt row = a.rows[r];
      float* slot = static_cast<float*>(a.ring) +
                    ((row.state * a.tiles + tile) * a.slots + row.position % a.slots) * W;
      H rounded[W];
      store_narrow(rounded, load(slot));
      store(slot, load_wide<float>(rounded));
    }
  }
}

}  // namespace

void short_range_step(const StepParams& a, int64_t tile_begin, int64_t tile_end) {
  a.state == Scalar::kFloat64 ? by_io<double>(a, tile_begin, tile_end)
                              : by_io<float>(a, tile_begin, tile_end);
  if (a.stored == Scalar::kBFloat16) round_inputs<BFloat16>(a, tile_begin, tile_end);
  if (a.stored == Scalar::kFloat16) round_inputs<Float16>(a, tile_begin, tile_end);
}

}  // namespace FF_ISA
}  // namespace futurefill
