// What comes before and after the transforms of a prompt: gated inputs, padded, and from the
// inverse transform the outputs and the future fill. One pass each; rows of time have a stride
// of 1.
#pragma once

#include "launch_shape.h"
#include "ring.cuh"

namespace futurefill::cuda {

// x = u pre, zero from each row's length on; held, if any, is a copy of its first positions.
template <class Io>
__global__ __launch_bounds__(kPrefillThreads) void prefill_inputs(
    const Io* u, const Io* pre, const int64_t* lengths, float* x, float* held, const Strides u_at,
    const Strides pre_at, const Strides x_at, const Strides held_at, const InputsShape a) {
  const int64_t row = blockIdx.z, channel = blockIdx.y;
  const int64_t length = lengths ? lengths[row] : a.positions;
  u += row * u_at.row + channel * u_at.channel;
  if (pre) pre += row * pre_at.row + channel * pre_at.channel;
  x += row * x_at.row + channel * x_at.channel;
  if (held) held += row * held_at.row + channel * held_at.channel;
#pragma unroll
  for (int k = 0; k < kInputsTile; k += kPrefillThreads) {
    const int64_t t = int64_t(blockIdx.x) * kInputsTile + k + threadIdx.x;
    if (t >= a.width) break;
    float value = 0.f;
    if (t < length && t < a.positions) {
      value = to_float(u[t]);
      if (pre) value *= to_float(pre[t]);
    }
    x[t] = value;
    if (held && t < a.positions) held[t] = value;
  }
}

// y = post (z + skip u pre) of the positions from `starts`, and z of the positions from `ends`
// into the state, whose channels are neighbours: through a tile in shared memory.
template <class Io>
__global__ __launch_bounds__(kPrefillThreads) void prefill_outputs(
    const float* z, const Io* u, const Io* pre, const Io* post, const float* skip, Io* y,
    void* prompt_fill, void* ring, const int64_t* rows, const int64_t* starts, const int64_t* ends,
    const Strides z_at, const Strides u_at, const Strides pre_at, const Strides post_at,
    const Strides y_at, const OutputsShape a) {
  __shared__ float tile[kOutputsChannels][kOutputsTime + 1];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  constexpr int kWarps = kPrefillThreads / 32;
  const int64_t row = blockIdx.z, first_channel = int64_t(blockIdx.y) * kOutputsChannels;
  const int64_t start = starts ? starts[row] : 0, end = ends[row], stop = end + a.length;
  const int64_t first = start / 32 * 32 + int64_t(blockIdx.x) * kOutputsTime;  // whole lines of z
  const int64_t channels = a.channels, positions = a.positions;
#pragma unroll
  for (int c = warp; c < kOutputsChannels; c += kWarps) {
    const int64_t channel = first_channel + c;
    const bool inside = channel < channels;
    const float weight = inside && skip ? skip[channel] : 0.f;
    const auto tile_of = [&](auto* x, const Strides& at, int64_t origin) {
      return x + row * at.row + channel * at.channel + first - origin;
    };
    const float* from = tile_of(z, z_at, 0);
#pragma unroll
    for (int s = lane; s < kOutputsTime; s += 32) {
      const int64_t t = first + s;
      const bool filled = inside && t >= end && t < stop;
      const bool shown = inside && t >= start && t < start + positions;
      float value = filled || shown ? from[s] : 0.f;
      if (filled) tile[c][s] = value;
      if (shown) {
        if (skip && t < end) {
          float x = to_float(tile_of(u, u_at, start)[s]);
          if (pre) x *= to_float(tile_of(pre, pre_at, start)[s]);
          value = fmaf(weight, x, value);
        }
        if (post) value *= to_float(tile_of(post, post_at, start)[s]);
        tile_of(y, y_at, start)[s] = from_float<Io>(value);
      }
    }
  }
  if (first + kOutputsTime <= end || first >= stop) return;
  __syncthreads();
  const int64_t batch_row = rows[row], channel = first_channel + lane;
  if (channel >= channels || batch_row < 0 || batch_row >= a.batch) return;
  const int64_t lanes = a.lanes;
  with_ring(a.stored, ring, [&](auto* pending, auto stored) {
    using T = std::remove_pointer_t<decltype(pending)>;
    T* fill = static_cast<T*>(prompt_fill);
    if (fill) fill += batch_row * a.length * lanes + channel;
    pending += batch_row * a.slots * lanes + channel;
#pragma unroll
    for (int s = warp; s < kOutputsTime; s += kWarps) {
      const int64_t slot = first + s - end;
      if (slot >= 0 && slot < stop - end) {
        const T value = stored.rounded(tile[lane][s]);
        pending[slot * lanes] = value;
        if (fill) fill[slot * lanes] = value;
      }
    }
  });
}

}  // namespace futurefill::cuda
