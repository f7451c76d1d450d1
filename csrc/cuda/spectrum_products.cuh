// values = sum_{k=1..min(i, K)} X_{i-k} H_k with X_{i-1} in values, which is kept where a later
// firing needs it: the middle of a future fill whose transforms are done elsewhere.
//
// A warp takes 32 channels of one entry: every row it touches is one or two 128-byte lines.
#pragma once

#include "firing.cuh"
#include "launch_shape.h"

namespace futurefill::cuda {

// values (R, n, width) in the order of an FFT, spectra and kept in tree order: bits reversed.
// rows: -1 where the level does not fire.
__global__ __launch_bounds__(kProductChannels* kProductEntries) void spectrum_products(
    float2* values, float* kept, const float* spectra, const int64_t* positions,
    const int64_t* rows, const ProductShape a) {
  const int local = blockIdx.y * kProductChannels + threadIdx.x % kProductChannels;
  const int64_t entry = int64_t(blockIdx.x) * kProductEntries + threadIdx.x / kProductChannels;
  if (entry >= a.transform || local >= a.width) return;
  const int64_t b = rows[blockIdx.z];
  if (b < 0 || b >= a.batch) return;
  const int64_t p = positions[b] / a.block * a.block;
  const Firing firing(p / a.block, a);
  if (firing.blocks == 0) return;

  const int64_t natural = __brev(unsigned(entry)) >> (32 - a.log_transform);
  float2* value = values + (blockIdx.z * a.transform + natural) * a.width + local;
  const int channel = a.first_channel + local;
  const float* h =
      spectra + entry * 2 * a.filter_lanes + min(channel, a.channels - 1) / a.channels_per_filter;
  float* old = kept + b * a.kept_row + entry * 2 * a.lanes + channel;
  const int64_t next_h = 2 * a.transform * a.filter_lanes, next_kept = 2 * a.transform * a.lanes;

  const float2 x = *value;
  float2 sum = {fmaf(-x.y, h[a.filter_lanes], x.x * h[0]),
                fmaf(x.y, h[0], x.x * h[a.filter_lanes])};
  const int slots = a.n_spectra - 1, newest = firing.newest(a.n_spectra);
  int slot = newest;
  for (int k = 2; k <= firing.blocks; ++k) {
    h += next_h;
    slot = slot ? slot - 1 : slots - 1;
    const float re = old[slot * next_kept], im = old[slot * next_kept + a.lanes];
    sum.x = fmaf(-im, h[a.filter_lanes], fmaf(re, h[0], sum.x));
    sum.y = fmaf(im, h[0], fmaf(re, h[a.filter_lanes], sum.y));
  }
  // after the loop: the slot may have held X_{i-K}
  if (firing.keep && p + a.block + a.late < a.length) {
    old[newest * next_kept] = x.x;
    old[newest * next_kept + a.lanes] = x.y;
  }
  *value = sum;
}

}  // namespace futurefill::cuda
