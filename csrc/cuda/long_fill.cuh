// Future fill of a block that one thread block cannot hold: three passes over a workspace.
//
// The first levels of the transform make of a block S nodes of M coefficients, polynomials modulo
// x^M - c. A twist of the coefficients by powers of c^(1/M) turns them into polynomials modulo
// x^M - 1, whose leaves are the node's in the order of the whole tree. So split_block reads inputs
// and writes twisted nodes; transform_nodes takes a node to its leaves, multiplies and sums as a
// shorter fill does, and back; merge_block untwists, merges and adds to the pending outputs. 52
// bytes per point and channel, and neighbouring lanes hold neighbouring channels throughout.
#pragma once

#include "fill_passes.cuh"
#include "firing.cuh"
#include "launch_shape.h"
#include "multiply_spectra.cuh"
#include "ring.cuh"
#include "transform.cuh"

namespace futurefill::cuda {

// The row of a thread block, and whether its newest block, which ends at `end`, fires now.
struct FiringRow {
  int64_t b, end;
  bool fires = false;

  __device__ __forceinline__ FiringRow(const int64_t* positions, const int64_t* rows,
                                       const FillShape& a) {
    b = rows ? rows[blockIdx.y] : blockIdx.y;
    if (b < 0 || b >= a.batch) return;
    const int64_t at = positions[b];
    end = at / a.block * a.block;
    fires = end > 0 && end + a.late < a.length && at - end < max(a.late, 1) &&
            Firing(end / a.block, a).blocks > 0;
  }
};

// Of a thread of the outer passes: its channel, its coefficient k of all nodes, and where those
// begin in a transform's rows of the workspace.
template <int S>
struct OuterThread {
  int channel, k, points, width;
  int64_t at;  // in the workspace, complex values

  __device__ __forceinline__ OuterThread(const FillShape& a) {
    width = a.last_channel - a.first_channel, points = a.transform / S;
    const int units = width / kOuterChannels, unit = blockIdx.x % units;
    const int local = unit * kOuterChannels + threadIdx.x % kOuterChannels;
    k = blockIdx.x / units * kOuterPoints + threadIdx.x / kOuterChannels;
    channel = a.first_channel + local;
    at = ((int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * a.transform + k) * width + local;
  }
};

template <int S>
__global__ __launch_bounds__(kOuterChannels* kOuterPoints) void split_block(
    float2* scratch, void* ring, float* open_block, const int64_t* positions, const int64_t* rows,
    const float2* twist, const FillShape a) {
  const FiringRow row(positions, rows, a);
  if (!row.fires) return;
  const OuterThread<S> t(a);
  const int64_t step = t.points * a.lanes;
  Complex v[S];
  with_ring(a.stored, ring, [&](const auto* slots, auto stored) {
    const auto* in = slots + blockIdx.z * a.ring_layer + row.b * a.ring_row +
                     (row.end - a.block + t.k) * a.lanes + t.channel;
#pragma unroll
    for (int s = 0; s < S; ++s) {
      v[s].re = s * t.points + t.k < a.block ? stored.wide(in[s * step]) : 0.f;
    }
  });
  forward_root<S>(v);
  float2* out = scratch + t.at;
#pragma unroll
  for (int s = 0; s < S; ++s) {
    const float2 w = twist[s * t.points + t.k];
    const Complex z = multiply(v[s], w.x, w.y);
    out[int64_t(s) * t.points * t.width] = make_float2(z.re, z.im);
  }
}

// In place. A thread block takes a few channels of one node.
template <class Config>
__global__ __launch_bounds__(
    Config::value.threads(),
    Config::value.min_blocks) void transform_nodes(float2* scratch, float* kept,
                                                   const float* spectra, const int64_t* positions,
                                                   const int64_t* rows, const FillShape a) {
  constexpr FillConfig kConfig = Config::value;
  constexpr int M = kConfig.block, P = kConfig.points, W = kConfig.width(), C = kConfig.channels;
  constexpr int R3 = kConfig.last;
  extern __shared__ float4 shared[];
  const FiringRow row(positions, rows, a);
  if (!row.fires) return;
  const int c = threadIdx.x % C, k = threadIdx.x / C;
  const int nodes = a.transform / M, node = blockIdx.z % nodes, layer = blockIdx.z / nodes;
  const int local = blockIdx.x * C + c, width = a.last_channel - a.first_channel;
  const int64_t step = int64_t(W) * width;
  // computed again behind the transforms: cheaper than registers across them
  const auto values = [&] {
    const int64_t block = (int64_t(forget(layer)) * gridDim.y + blockIdx.y) * a.transform;
    return scratch + (block + node * M + k) * width + local;
  };
  using Table = Twiddles<Config, 0>;
  float* twiddles = reinterpret_cast<float*>(shared) + kConfig.exchange_bytes() / 4;
  Table::request(twiddles, threadIdx.x);
  Complex v[P];
  {
    const float2* in = values();
#pragma unroll
    for (int s = 0; s < P; ++s, in += step) v[s] = {in->x, in->y};
  }
  const Passes<Config, 0> passes{
      {twiddles, kConfig.twiddles()}, {reinterpret_cast<char*>(shared), c, k}, k};
  forward_first<P>(v);
  Table::wait();  // read behind the first exchange
  passes.forward(v);

  const int channel = a.first_channel + local;
  const int filter = min(channel, a.channels - 1) / a.channels_per_filter;
  const Firing firing(row.end / a.block, a);
  const int64_t entry = node * M + k * R3;
  Spectra f;
  f.h = spectra + layer * a.spectra_layer + entry * 2 * a.filter_lanes + filter;
  f.kept = kept + layer * a.kept_layer + row.b * a.kept_row + entry * 2 * a.lanes + channel;
  f.n_spectra = a.n_spectra;
  f.blocks = firing.blocks;
  f.keep = firing.keep && row.end + a.block + a.late < a.length;
  f.newest = firing.newest(a.n_spectra);
  multiply_spectra<P, R3, W * R3>(v, f, a.lanes, a.filter_lanes, int64_t(a.transform));

  passes.inverse(v);
  float2* out = values();
#pragma unroll
  for (int s = 0; s < P; ++s, out += step) *out = make_float2(v[s].re, v[s].im);
}

template <int S>
__global__ __launch_bounds__(kOuterChannels* kOuterPoints) void merge_block(
    const float2* scratch, void* ring, float* open_block, const int64_t* positions,
    const int64_t* rows, const float2* twist, const FillShape a) {
  const FiringRow row(positions, rows, a);
  if (!row.fires) return;
  const OuterThread<S> t(a);
  const int64_t first = row.end + a.late, step = t.points * a.lanes;
  const int64_t count = min(a.block, a.length - first);
  const float2* in = scratch + t.at;
  Complex v[S];
#pragma unroll
  for (int s = 0; s < S; ++s) {
    const float2 z = in[int64_t(s) * t.points * t.width], w = twist[s * t.points + t.k];
    v[s] = multiply({z.x, z.y}, w.x, -w.y);
  }
  inverse_first<S>(v);
  untwist<S>(v, {1.f, 0.f});
  constexpr int kBatch = 16;  // asked for before the first is stored
  const int64_t from = t.k * a.lanes + t.channel;
  float* open = open_block + (blockIdx.z * a.batch + row.b) * a.open_slots * a.lanes + from;
  with_ring(a.stored, ring, [&](auto* slots, auto stored) {
    auto* out = slots + blockIdx.z * a.ring_layer + row.b * a.ring_row + first * a.lanes + from;
    const auto opened = [&](int s) { return stored.kNarrow && s * t.points + t.k < a.open_slots; };
#pragma unroll
    for (int s = 0; s < S; s += kBatch) {
      float pending[kBatch];
#pragma unroll
      for (int q = 0; q < kBatch; ++q) {
        const int64_t at = (s + q) * step;
        if ((s + q) * t.points + t.k < count) {
          pending[q] = opened(s + q) ? open[at] : stored.wide(out[at]);
        }
      }
#pragma unroll
      for (int q = 0; q < kBatch; ++q) {
        const int64_t at = (s + q) * step;
        const float sum = pending[q] + v[s + q].im;
        if ((s + q) * t.points + t.k >= count) continue;
        if (opened(s + q)) {
          open[at] = sum;
        } else {
          out[at] = stored.rounded(sum);
        }
      }
    }
  });
}

}  // namespace futurefill::cuda
