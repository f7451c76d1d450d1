// y = post (pending[p] + sum_{s=0..p mod T_0} taps[s] x[p-s] + skip x), x = pre u; ring[p] = x.
//
// A thread block takes 8 channels, one 32-byte sector, of a few batch rows. Two lanes of 16 bytes
// cover the channels, the other lanes and warps the taps; a tap is read once for all rows.
#pragma once

#include "io.cuh"
#include "launch_shape.h"

namespace futurefill::cuda {

// The position's upper bits count the thread blocks that have read it.
constexpr int kArrivalShift = 40;
constexpr int64_t kPositionMask = (int64_t{1} << kArrivalShift) - 1;

// Four neighbouring channels' values of one filter row. kShared: filters serve several channels.
template <bool kShared>
__device__ __forceinline__ float4 load_filter(const float* row, const int (&filter)[4]) {
  if constexpr (kShared) {
    return {row[filter[0]], row[filter[1]], row[filter[2]], row[filter[3]]};
  } else {
    return *reinterpret_cast<const float4*>(row + filter[0]);
  }
}

// The last of `blocks` arrivals moves the row on; the count is zero again afterwards.
__device__ __forceinline__ void arrive(int64_t* position, int blocks) {
  auto* word = reinterpret_cast<unsigned long long*>(position);
  const unsigned long long before = atomicAdd(word, 1ull << kArrivalShift);
  if (static_cast<int>(before >> kArrivalShift) == blocks - 1) {
    atomicExch(word, (before & kPositionMask) + 1);
  }
}

// One row and channel of the token itself. Padding rows have post 0 and no slot.
template <class Io>
struct Own {
  bool inside;
  Io* y;
  float* slot;
  float x, history, post;  // history: pending output, newest tap and skip
};

template <class Io, int kRows, bool kShared>
__global__ __launch_bounds__(kStepMaxThreads) void short_range_step(
    const Io* u, const Io* pre, const Io* post, Io* y, float* ring, const float* taps,
    const float* skip, int64_t* positions, const int64_t* rows, const StepShape a) {
  __shared__ float4 partial[kRows][kStepMaxThreads / 32][2];
  const int thread = threadIdx.x, half = thread % 2, warps = blockDim.x / 32;
  const int channel = blockIdx.x * kStepChannels + 4 * half;
  const int first_row = blockIdx.y * kRows;

  // one lane per row reads where it is: -1 is padding
  int64_t own_state = -1, own_position = -1;
  const int own_row = first_row + thread % 32;
  if (thread % 32 < kRows && own_row < a.n_rows) {
    own_state = rows ? rows[own_row] : own_row;
    if (own_state >= a.batch) own_state = -1;
    if (own_state >= 0) {
      own_position = *static_cast<const volatile int64_t*>(positions + own_state) & kPositionMask;
    }
  }
  int64_t state[kRows], position[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    state[r] = __shfl_sync(~0u, own_state, r);
    position[r] = __shfl_sync(~0u, own_position, r);
  }

  // the sum over the block's earlier inputs
  float4 sum[kRows] = {};
  int filter[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    filter[q] = kShared ? min(channel + q, a.channels - 1) / a.channels_per_filter : channel;
  }
  for (int s = 1 + thread / 2; s < a.taps; s += blockDim.x / 2) {
    float4 x[kRows];
    bool any = false;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool inside = position[r] >= 0 && position[r] < a.slots &&
                          s <= static_cast<int>(unsigned(position[r]) % unsigned(a.taps));
      any |= inside;
      x[r] = {0.f, 0.f, 0.f, 0.f};
      if (inside) {
        x[r] = *reinterpret_cast<const float4*>(ring + state[r] * a.ring_row +
                                                (position[r] - s) * a.lanes + channel);
      }
    }
    if (!any) break;
    const float4 h = load_filter<kShared>(taps + s * a.filter_lanes, filter);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sum[r].x = fmaf(h.x, x[r].x, sum[r].x);
      sum[r].y = fmaf(h.y, x[r].y, sum[r].y);
      sum[r].z = fmaf(h.z, x[r].z, sum[r].z);
      sum[r].w = fmaf(h.w, x[r].w, sum[r].w);
    }
  }
  Own<Io> own = {};
  const auto load_own = [&](int item, int64_t b, int64_t p) {
    const int row = first_row + item / kStepChannels;
    const int64_t at = blockIdx.x * kStepChannels + item % kStepChannels;
    Own<Io> o = {};
    o.inside = row < a.n_rows && at < a.channels;
    if (!o.inside) return o;
    o.y = y + row * a.y_row + at;
    o.post = b < 0 ? 0.f : NAN;
    if (b < 0 || p >= a.slots) return o;
    o.slot = ring + b * a.ring_row + p * a.lanes + at;
    o.post = post ? to_float(post[row * a.post_row + at]) : 1.f;
    o.x = to_float(u[row * a.u_row + at]) * (pre ? to_float(pre[row * a.pre_row + at]) : 1.f);
    o.history = fmaf(taps[kShared ? at / a.channels_per_filter : at], o.x, *o.slot);
    if (skip) o.history = fmaf(skip[at], o.x, o.history);
    return o;
  };
  if (kRows == 1 && thread < kStepChannels) own = load_own(thread, state[0], position[0]);

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int distance = 16; distance >= 2; distance /= 2) {
      sum[r].x += __shfl_xor_sync(~0u, sum[r].x, distance);
      sum[r].y += __shfl_xor_sync(~0u, sum[r].y, distance);
      sum[r].z += __shfl_xor_sync(~0u, sum[r].z, distance);
      sum[r].w += __shfl_xor_sync(~0u, sum[r].w, distance);
    }
    if (thread % 32 < 2) partial[r][thread / 32][half] = sum[r];
  }
  __syncthreads();

  // every thread has read the positions
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (a.advance && thread == r && position[r] >= 0 && position[r] < a.slots) {
      arrive(positions + state[r], gridDim.x);
    }
  }
  for (int item = thread; item < kRows * kStepChannels; item += blockDim.x) {
    const int r = item / kStepChannels, c = item % kStepChannels;
    if (kRows > 1) {
#pragma unroll
      for (int q = 0; q < kRows; ++q) {
        if (q == r) own = load_own(item, state[q], position[q]);
      }
    }
    if (!own.inside) continue;
    float result = own.history;
    for (int w = 0; w < warps; ++w) {
      result += reinterpret_cast<const float*>(partial[r][w])[c];
    }
    *own.y = from_float<Io>(own.post * result);
    if (own.slot) *own.slot = own.x;
  }
}

}  // namespace futurefill::cuda
