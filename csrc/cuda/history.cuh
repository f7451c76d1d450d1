// What of a token's convolutions does not depend on the token, of all layers and rows: with
// p = positions[b],
//   token_at[l, b] = p,  undo[l, b, p mod undo slots] = ring[l, b, p] (its pending output),
//   history[l, b] = ring[l, b, p] + sum_{s=1..p mod T_0} taps[l, s] ring[l, b, p-s],
// where a ring in 16 bits has an open block that holds all of these slots.
//
// A warp takes a few channels of a few rows: some lanes cover the channels, four each, the others
// the taps, so that no sum crosses warps. A tap is read once for the warp's rows.
#pragma once

#include "launch_shape.h"
#include "ring.cuh"

namespace futurefill::cuda {

__device__ __forceinline__ float4 load4(const float* at) {
  return *reinterpret_cast<const float4*>(at);
}

__device__ __forceinline__ void store4(float* at, const float4& value) {
  *reinterpret_cast<float4*>(at) = value;
}

__device__ __forceinline__ void add_product(float4& sum, const float4& h, const float4& x) {
  sum.x = fmaf(h.x, x.x, sum.x);
  sum.y = fmaf(h.y, x.y, sum.y);
  sum.z = fmaf(h.z, x.z, sum.z);
  sum.w = fmaf(h.w, x.w, sum.w);
}

// Four neighbouring channels' values of one filter row. kShared: filters serve several channels.
template <bool kShared>
__device__ __forceinline__ float4 load_filter(const float* row, const int (&filter)[4]) {
  if constexpr (kShared) {
    return {row[filter[0]], row[filter[1]], row[filter[2]], row[filter[3]]};
  } else {
    return load4(row + filter[0]);
  }
}

template <int kRows, int kVectors, int kUnroll, bool kShared>
__global__ __launch_bounds__(32 * kHistoryWarps, history_min_blocks(kRows)) void history(
    const float* __restrict__ slots, const float* __restrict__ taps,
    const int64_t* __restrict__ positions, const int64_t* __restrict__ rows,
    int64_t* __restrict__ token_at, float* __restrict__ undo, float* __restrict__ result,
    const HistoryShape a) {
  constexpr int kPlaces = 32 / kVectors;  // taps side by side
  const int lane = threadIdx.x % 32, place = lane / kVectors;
  const int tile = blockIdx.x * kHistoryWarps + threadIdx.x / 32;
  const int channel = 4 * (tile * kVectors + lane % kVectors);
  if (4 * tile * kVectors >= a.lanes) return;
  const int64_t layer = blockIdx.z;

  int state[kRows];  // -1 is padding
  int64_t position[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = blockIdx.y * kRows + r;
    const int64_t named = row >= a.n_rows ? -1 : rows ? rows[row] : row;
    state[r] = named >= 0 && named < a.batch ? int(named) : -1;
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) position[r] = state[r] < 0 ? -1 : positions[state[r]];

  const float* slot[kRows];    // of the token
  int taken[kRows], most = 0;  // earlier inputs of its block, -1 where there is no slot
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int64_t p = position[r], row = layer * a.batch + state[r];
    // a ring of 2^32 slots fits no GPU
    taken[r] = p >= 0 && p < a.slots ? int(unsigned(p) % unsigned(a.taps)) : -1;
    most = max(most, taken[r]);
    const int64_t own = a.open_slots ? open_slot(p, a.open_slots) : p;
    slot[r] = slots + row * a.slots_row + own * a.lanes + channel;
    if (state[r] >= 0 && tile == 0 && lane == 0) token_at[row] = p;
  }

  float4 sum[kRows], pending[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    pending[r] = {0.f, 0.f, 0.f, 0.f};
    if (taken[r] >= 0 && place == 0) pending[r] = load4(slot[r]);
    sum[r] = {0.f, 0.f, 0.f, 0.f};
  }
  int filter[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    filter[q] = kShared ? (channel + q) / a.channels_per_filter : channel;
  }
  const float* tap = taps + layer * a.taps * a.filter_lanes;
  for (int base = 1 + place; base - place <= most; base += kUnroll * kPlaces) {
    float4 h[kUnroll], x[kUnroll][kRows];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int s = base + i * kPlaces;
      h[i] = {0.f, 0.f, 0.f, 0.f};
      if (s <= most) h[i] = load_filter<kShared>(tap + s * a.filter_lanes, filter);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        x[i][r] = {0.f, 0.f, 0.f, 0.f};
        if (s <= taken[r]) x[i][r] = load4(slot[r] - s * a.lanes);
      }
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) add_product(sum[r], h[i], x[i][r]);
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int distance = 16; distance >= kVectors; distance /= 2) {
      sum[r].x += __shfl_xor_sync(~0u, sum[r].x, distance);
      sum[r].y += __shfl_xor_sync(~0u, sum[r].y, distance);
      sum[r].z += __shfl_xor_sync(~0u, sum[r].z, distance);
      sum[r].w += __shfl_xor_sync(~0u, sum[r].w, distance);
    }
    if (taken[r] < 0 || place != 0) continue;
    const int64_t row = layer * a.batch + state[r];
    const int64_t kept = a.undo_slots == 1 ? 0 : position[r] % a.undo_slots;
    store4(undo + (row * a.undo_slots + kept) * a.lanes + channel, pending[r]);
    const float4 p = pending[r];
    store4(result + row * a.lanes + channel,
           {p.x + sum[r].x, p.y + sum[r].y, p.z + sum[r].z, p.w + sum[r].w});
  }
}

}  // namespace futurefill::cuda
