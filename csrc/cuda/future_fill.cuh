// ring[p : p + T] += last T entries of F^-1(sum_{k=1..min(i, K)} X_{i-k} H_k)  (docs/algorithm.md)
//
// One launch for all layers and rows, and all channels or, of a level with slack, a share of them.
// A thread block takes a few channels of one row of one layer; their whole transforms stay in
// registers (fill_config.h), neighbouring lanes hold neighbouring channels. Filters are read once,
// inputs once, pending outputs are read and written once.
#pragma once

#include "fill_config.h"
#include "fill_passes.cuh"
#include "firing.cuh"
#include "launch_shape.h"
#include "multiply_spectra.cuh"
#include "ring.cuh"
#include "transform.cuh"

namespace futurefill::cuda {

// Adds the outputs of N units to the pending ones of slots begin .. end - 1, of which the thread
// has `first` and every width-th after it: the last unit's are the imaginary parts of v, the
// others' wait at `waiting`, `apart` values from slot to slot, and the last kHeld slots of the last
// waiting unit in `held`.
template <int P, int N, int kHeld, class T>
__device__ __forceinline__ void add_outputs(const Complex* v, const float* waiting, int apart,
                                            const float* held, T* out, Stored<T> stored,
                                            int64_t step, int begin, int end, int first,
                                            int width) {
  constexpr int kBatch = P < 4 ? P : 4;
  const auto inside = [&](int s) { return first + s * width >= begin && first + s * width < end; };
#pragma unroll
  for (int s = 0; s < P; s += kBatch) {
    Values<float, N> pending[kBatch];
#pragma unroll
    for (int q = 0; q < kBatch; ++q) {
      if (inside(s + q)) pending[q] = stored.template load<N>(out + q * step);
    }
#pragma unroll
    for (int q = 0; q < kBatch; ++q) {
      if (inside(s + q)) {
#pragma unroll
        for (int u = 0; u + 1 < N; ++u) {
          const int slot = u * P + s + q - ((N - 1) * P - kHeld);
          pending[q].at[u] += slot < 0 ? waiting[(u * P + s + q) * apart] : held[slot];
        }
        pending[q].at[N - 1] += v[s + q].im;
        stored.store(out + q * step, pending[q]);
      }
    }
    out += kBatch * step;
  }
}

// As add_outputs of one unit, but the memory adds: nothing is waited for. Each slot gets one term.
template <int P>
__device__ __forceinline__ void reduce_outputs(const Complex* v, float* out, int64_t step,
                                               int count, int first, int width) {
#pragma unroll
  for (int s = 0; s < P; ++s, out += step) {
    if (first + s * width < count) atomicAdd(out, v[s].im);
  }
}

__device__ __forceinline__ void swap_outputs(Complex& v, float& waiting) {
  v.re = waiting;
  waiting = v.im;
}

template <class Config>
__global__ __launch_bounds__(Config::value.threads(), Config::value.min_blocks) void future_fill(
    void* ring, float* open_block, float* kept, const float* spectra, const int64_t* positions,
    const int64_t* rows, const FillShape a) {
  constexpr FillConfig kConfig = Config::value;
  // T: points of the transform; a block that is no power of two is shorter
  constexpr int T = kConfig.block, P = kConfig.points, W = kConfig.width(), C = kConfig.channels;
  constexpr int R3 = kConfig.last;
  constexpr int U = kConfig.units, N = kConfig.staged;
  constexpr bool kPairs = U > 1 || Config::early;
  using Table = Twiddles<Config, 1>;
  const int64_t block = Config::whole ? int64_t(T) : a.block;
  extern __shared__ float4 shared[];
  const int thread = threadIdx.x, c = thread % C, k = thread / C;
  const int column = blockIdx.x / (U / N), first_unit = blockIdx.x % (U / N) * N;
  // the lane's channel of the block's first unit
  const auto channel_of = [&]() -> int {
    return a.first_channel + forget(column) * kConfig.group() + c * U + first_unit;
  };
  if (C > 32 && channel_of() >= a.last_channel) return;

  if constexpr (Config::early) {  // of the first product, which no position decides
    const int filter = min(channel_of(), a.channels - 1) / a.channels_per_filter;
    prefetch_pairs<Config>(spectra + blockIdx.z * a.spectra_layer + Pairs<Config>::start(filter, k),
                           c);
  }
  // read again in every phase: cheaper than registers across the transforms
  const auto state_row = [&]() -> int64_t {
    const int at = forget(int(blockIdx.y));
    return rows ? rows[at] : at;
  };
  float* values = reinterpret_cast<float*>(shared) + kConfig.exchange_bytes() / 4;
  float* waiting = values + 2 * kConfig.twiddles() + thread;
  constexpr int kApart = kConfig.threads();
  constexpr int kHeld = kConfig.held, kInShared = (N - 1) * P - kHeld;
  Complex v[P];
  float held[kHeld + 1];
  {
    const int64_t b = state_row();
    if (b < 0 || b >= a.batch) return;
    const int64_t at = positions[b], p = at / block * block;
    if (p <= 0 || p + a.late >= a.length || at - p >= max(a.late, 1)) return;
    if (Firing(p / block, a).blocks == 0) return;
    if constexpr (!kConfig.single()) Table::request(values, thread);
    const int64_t step = W * a.lanes;
    const IoType of_ring = Config::early ? IoType::kFloat32 : a.stored;
    with_ring(of_ring, ring, [&](const auto* slots, auto stored) {
      const auto* in = slots + blockIdx.z * a.ring_layer + b * a.ring_row +
                       (p - block + k) * a.lanes + channel_of();
#pragma unroll
      for (int s = 0; s < P; ++s, in += step) {
        Values<float, N> u{};
        if (Config::whole || k + s * W < block) u = stored.template load<N>(in);
        v[s].re = u.at[0];
#pragma unroll
        for (int unit = 1; unit < N; ++unit) {
          const int place = (unit - 1) * P + s;
          if (place < kInShared) {
            waiting[place * kApart] = u.at[unit];
          } else {
            held[place - kInShared] = u.at[unit];
          }
        }
      }
    });
  }

  const auto multiply = [&](int unit, auto radix, auto stride) {
    const int64_t b = state_row(), p = positions[b] / block * block;
    const int channel = channel_of() + unit;
    const Firing firing(p / block, a);
    Spectra f;
    f.n_spectra = a.n_spectra;
    f.blocks = firing.blocks;
    f.keep = firing.keep && p + block + a.late < a.length;
    f.newest = firing.newest(a.n_spectra);
    const int filter = min(channel, a.channels - 1) / a.channels_per_filter;
    f.h = spectra + blockIdx.z * a.spectra_layer;
    f.kept = kept + blockIdx.z * a.kept_layer + b * a.kept_row;
    if constexpr (kPairs) {
      f.h += Pairs<Config>::start(filter, k);
      f.kept += Pairs<Config>::start(channel, k);
      multiply_pairs<Config>(v, f, a.lanes, a.filter_lanes);
    } else {
      f.h += k * R3 * (2 * a.filter_lanes) + filter;
      f.kept += k * R3 * (2 * a.lanes) + channel;
      multiply_spectra<P, radix, stride>(v, f, a.lanes, a.filter_lanes,
                                         std::integral_constant<int, T>{});
    }
  };
  const auto add = [&]() {
    const int64_t b = state_row(), p = positions[b] / block * block + a.late;
    const int count = min(int64_t(block), a.length - p);
    const int64_t from = k * a.lanes + channel_of(), step = W * forget(a.lanes);
    if constexpr (Config::early) {
      float* out = static_cast<float*>(ring) + blockIdx.z * a.ring_layer + b * a.ring_row +
                   p * a.lanes + from;
      reduce_outputs<P>(v, out, step, count, k, W);
    } else {
      const auto run = [&](auto* out, auto stored, int begin, int end) {
        add_outputs<P, N, kHeld>(v, waiting, kApart, held, out, stored, step, begin, end, k, W);
      };
      add_to_slots(a, ring, open_block, blockIdx.z, b, p, from, count, run);
    }
  };

  if constexpr (kConfig.single()) {
    forward_root<P>(v);
    multiply(0, std::integral_constant<int, P>{}, std::integral_constant<int, 0>{});
    inverse_first<P>(v);
    untwist<P>(v, {1.f, 0.f});
    add();
  } else {
    const ComplexTable table{values, kConfig.twiddles()};
    const Passes<Config> passes{table, {reinterpret_cast<char*>(shared), c, k}, k};

    const auto convolve = [&](int unit) {
      forward_root<P>(v);
      Table::wait();  // read behind the first exchange
      passes.forward(v);
      multiply(unit, std::integral_constant<int, R3>{}, std::integral_constant<int, W * R3>{});
      passes.inverse(v);
      untwist<P>(v, table[Table::kTwist + k]);
    };

    if constexpr (N == 1) {
      convolve(0);
    } else {
#pragma unroll 1
      for (int unit = 0;; ++unit) {
        convolve(unit);
        if (unit == N - 1) break;
        // outputs take the place of the next unit's inputs
        float* place = waiting + unit * P * kApart;
#pragma unroll
        for (int s = 0; s < P - kHeld; ++s) swap_outputs(v[s], place[s * kApart]);
        if (unit < N - 2) {
#pragma unroll
          for (int s = P - kHeld; s < P; ++s) swap_outputs(v[s], place[s * kApart]);
        } else {
#pragma unroll
          for (int s = P - kHeld; s < P; ++s) swap_outputs(v[s], held[s - (P - kHeld)]);
        }
      }
    }
    add();
  }
}

}  // namespace futurefill::cuda
