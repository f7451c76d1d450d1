// A token of one layer after its history: with p = token_at[b] and x = pre u,
//   y = post (history[b] + (taps[0] + skip) x),  ring[b, p] = x, rounded to what the ring holds;
// the last layer's also sets positions[b] = p + 1, which nothing else of its launch reads or
// writes.
//
// Element-wise. Only the stores wait for p; everything that is read is asked for at once.
#pragma once

#include "launch_shape.h"
#include "ring.cuh"

namespace futurefill::cuda {

template <class Io, int kVector>
__global__ __launch_bounds__(kApplyThreads) void apply_step(
    const Io* u, const Io* pre, const Io* post, Io* y, float* __restrict__ slots,
    const float* __restrict__ taps, const float* __restrict__ skip,
    const float* __restrict__ history, const int64_t* __restrict__ token_at,
    int64_t* __restrict__ positions, const int64_t* __restrict__ rows, const ApplyShape a) {
  const int channel = kVector * (blockIdx.x * kApplyThreads + threadIdx.x);
  if (channel >= a.channels) return;
  const int64_t row = blockIdx.y, state = rows ? rows[row] : row;
  const bool named = state >= 0 && state < a.batch;  // -1 is padding

  Values<Io, kVector> result;
  if (named) {
    const int64_t p = token_at[state];
    const auto own = load_values<kVector>(u + row * a.u_row + channel);
    Values<Io, kVector> before, after;
    if (pre) before = load_values<kVector>(pre + row * a.pre_row + channel);
    if (post) after = load_values<kVector>(post + row * a.post_row + channel);
    const auto sum = load_values<kVector>(history + state * a.lanes + channel);
    Values<float, kVector> weight;  // newest tap and skip
    if (a.channels_per_filter == 1) {
      weight = load_values<kVector>(taps + channel);
    } else {
#pragma unroll
      for (int q = 0; q < kVector; ++q) weight.at[q] = taps[(channel + q) / a.channels_per_filter];
    }
    if (skip) {
      const auto more = load_values<kVector>(skip + channel);
#pragma unroll
      for (int q = 0; q < kVector; ++q) weight.at[q] += more.at[q];
    }
    const bool valid = p >= 0 && p < a.slots;
    Values<float, kVector> x, z;
#pragma unroll
    for (int q = 0; q < kVector; ++q) x.at[q] = to_float(own.at[q]);
    if (pre) {
#pragma unroll
      for (int q = 0; q < kVector; ++q) x.at[q] *= to_float(before.at[q]);
    }
#pragma unroll
    for (int q = 0; q < kVector; ++q) z.at[q] = fmaf(weight.at[q], x.at[q], sum.at[q]);
    if (post) {
#pragma unroll
      for (int q = 0; q < kVector; ++q) z.at[q] *= to_float(after.at[q]);
    }
#pragma unroll
    for (int q = 0; q < kVector; ++q) result.at[q] = from_float<Io>(valid ? z.at[q] : NAN);
    if (valid) {
      float* row_slots = slots + state * a.slots_row + channel;
      if (a.open_slots) {
        const auto ring = stored_in_16(a.stored);
        Values<float, kVector> kept;
#pragma unroll
        for (int q = 0; q < kVector; ++q) kept.at[q] = ring.wide(ring.rounded(x.at[q]));
        store_values(row_slots + open_slot(p, a.open_slots) * a.lanes, kept);
      } else {
        store_values(row_slots + p * a.lanes, x);
      }
      if (a.advance && channel == 0) positions[state] = p + 1;
    }
  } else {
#pragma unroll
    for (int q = 0; q < kVector; ++q) result.at[q] = from_float<Io>(0.f);
  }
  store_values(y + row * a.y_row + channel, result);
}

}  // namespace futurefill::cuda
