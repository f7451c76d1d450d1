// ring[p : p + T] += last T entries of F^-1(sum_{k=1..min(i, K)} X_{i-k} H_k)  (docs/algorithm.md)
//
// One launch for all layers and rows, and all channels or, of a level with slack, a share of them.
// A thread block takes a few channels of one row of one layer; their whole transforms stay in
// registers (fill_config.h), neighbouring lanes hold neighbouring channels. Filters are read once,
// inputs once, pending outputs are read and written once.
#pragma once

#include "exchange.cuh"
#include "fill_config.h"
#include "firing.cuh"
#include "launch_shape.h"
#include "transform.cuh"

namespace futurefill::cuda {

// Twiddle tables of the passes behind the first, each [stored level][node or position].
template <class Config>
struct Twiddles {
  static constexpr FillConfig kConfig = Config::value;
  static constexpr int P = kConfig.points, W = kConfig.width(), T = kConfig.block;
  static constexpr int R2 = kConfig.middle, R3 = kConfig.last;
  static constexpr int kForward = 0;  // last pass, T / R3 nodes
  static constexpr int kInverse =
      kForward + stored_levels(R3) * (T / R3);  // first pass, W positions
  static constexpr int kTwist = kInverse + stored_levels(P) * W;
  static constexpr int kForwardMiddle = kTwist + W;  // P nodes
  static constexpr int kInverseMiddle =
      kForwardMiddle + (R2 > 1 ? stored_levels(R2) * P : 0);  // R3 positions

  // e^(2 pi i angle) for a level of a node, counted in tree order among `nodes`
  static __device__ __forceinline__ float node_angle(int entry, int nodes) {
    const int stored = entry / nodes, node = entry % nodes;
    const float reversed = nodes > 1 ? __brev(node) >> (32 - log2_of(nodes)) : 0u;
    return (reversed + 0.25f) / (nodes << (stored + 1));
  }
  static __device__ __forceinline__ float position_angle(int entry, int positions) {
    const int stored = entry / positions, position = entry % positions;
    return -float(position) / (positions << (stored + 1));
  }

  static __device__ __forceinline__ void fill(float* table, int thread) {
    for (int e = thread; e < kConfig.twiddles(); e += kConfig.threads()) {
      float angle;  // half turns
      if (e < kInverse) {
        angle = node_angle(e - kForward, T / R3);
      } else if (e < kTwist) {
        angle = position_angle(e - kInverse, W);
      } else if (e < kForwardMiddle) {
        angle = -float(e - kTwist) / (2 * T);
      } else if (e < kInverseMiddle) {
        angle = node_angle(e - kForwardMiddle, P);
      } else {
        angle = position_angle(e - kInverseMiddle, R3);
      }
      float re, im;
      sincospif(angle, &im, &re);
      table[e] = re;
      table[kConfig.twiddles() + e] = im;
    }
  }
};

// A value the compiler cannot relate to the original, so that addresses computed in one phase are
// not kept in registers for the next.
__device__ __forceinline__ int64_t forget(int64_t value) {
  asm volatile("" : "+l"(value));
  return value;
}
__device__ __forceinline__ int forget(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Spectra of a row that the products read.
struct Spectra {
  const float* h;  // H_1 at the thread's first entry
  float* kept;     // slot 0 at the thread's first entry
  int blocks;      // products
  int n_spectra;   // K
  int newest;      // slot of X_{i-1}
  bool keep;       // whether a later firing reads X_{i-1}
};

// Rows of one spectrum, read or written entry by entry of a thread: slot s = u R + r is entry
// u stride + r.
template <int R, int kStride, class T>
struct Entries {
  T* at;
  int64_t row, half;  // values per entry, and per its real part

  __device__ __forceinline__ Complex load(int q) const { return {at[q * row], at[q * row + half]}; }
  __device__ __forceinline__ void store(int q, Complex z) const {
    at[q * row] = z.re;
    at[q * row + half] = z.im;
  }
  __device__ __forceinline__ void next(int s, int batch) {
    at += ((s + batch) % R == 0 ? kStride + batch - R : batch) * row;
  }
};

__device__ __forceinline__ Complex multiply_add(Complex x, Complex h, Complex sum) {
  return {fmaf(-x.im, h.im, fmaf(x.re, h.re, sum.re)), fmaf(x.re, h.im, fmaf(x.im, h.re, sum.im))};
}

// v[s] = sum_k X_{i-k} H_k, with X_{i-1} in v; stores X_{i-1} where a later firing needs it.
template <int P, int R, int kStride, int T>
__device__ __forceinline__ void multiply_spectra(Complex* v, const Spectra& a, int64_t lanes,
                                                 int64_t filter_lanes) {
  using Read = Entries<R, kStride, const float>;
  using Write = Entries<R, kStride, float>;
  constexpr int kBatch = P < 4 ? P : 4, kSmall = P < 2 ? P : 2;
  const int slots = a.n_spectra - 1;
  // the slot that X_{i-1} takes may still hold X_{i-K}
  const bool replace = slots > 0 && a.blocks == a.n_spectra;
  if (replace) {
    const int64_t g = forget(filter_lanes), l = forget(lanes);
    Read h{a.h, 2 * g, g}, oldest{a.h + slots * (T * 2 * g), 2 * g, g};
    Write kept{a.kept + a.newest * (T * 2 * l), 2 * l, l};
#pragma unroll
    for (int s = 0; s < P; s += kSmall) {
      Complex x[kSmall], sum[kSmall];
#pragma unroll
      for (int q = 0; q < kSmall; ++q) x[q] = kept.load(q);
#pragma unroll
      for (int q = 0; q < kSmall; ++q) sum[q] = multiply_add(x[q], oldest.load(q), {0.f, 0.f});
      if (a.keep) {
#pragma unroll
        for (int q = 0; q < kSmall; ++q) kept.store(q, v[s + q]);
      }
#pragma unroll
      for (int q = 0; q < kSmall; ++q) v[s + q] = multiply_add(v[s + q], h.load(q), sum[q]);
      h.next(s, kSmall), oldest.next(s, kSmall), kept.next(s, kSmall);
    }
  } else {
    if (a.keep) {
      const int64_t l = forget(lanes);
      Write kept{a.kept + a.newest * (T * 2 * l), 2 * l, l};
#pragma unroll
      for (int s = 0; s < P; ++s) {
        kept.store(0, v[s]);
        kept.next(s, 1);
      }
    }
    const int64_t g = forget(filter_lanes);
    Read h{a.h, 2 * g, g};
#pragma unroll
    for (int s = 0; s < P; s += kBatch) {
      Complex f[kBatch];
#pragma unroll
      for (int q = 0; q < kBatch; ++q) f[q] = h.load(q);
#pragma unroll
      for (int q = 0; q < kBatch; ++q) v[s + q] = multiply_add(v[s + q], f[q], {0.f, 0.f});
      h.next(s, kBatch);
    }
  }
  int slot = a.newest;
  const int last = replace ? a.blocks - 1 : a.blocks;
#pragma unroll 1
  for (int k = 2; k <= last; ++k) {
    const int64_t g = forget(filter_lanes), l = forget(lanes);
    slot = slot ? slot - 1 : slots - 1;
    Read h{a.h + (k - 1) * (T * 2 * g), 2 * g, g}, kept{a.kept + slot * (T * 2 * l), 2 * l, l};
#pragma unroll
    for (int s = 0; s < P; s += kBatch) {
      Complex x[kBatch], f[kBatch];
#pragma unroll
      for (int q = 0; q < kBatch; ++q) x[q] = kept.load(q), f[q] = h.load(q);
#pragma unroll
      for (int q = 0; q < kBatch; ++q) v[s + q] = multiply_add(x[q], f[q], v[s + q]);
      h.next(s, kBatch), kept.next(s, kBatch);
    }
  }
}

// Spectra of interleaved units: entries r and r + 1 of a channel are 16 bytes, then come the other
// channels of the unit, then the next entries, then the next unit.
template <class Config>
struct Pairs {
  static constexpr FillConfig kConfig = Config::value;
  static constexpr int W = kConfig.width(), R = kConfig.last;

  // The first pair of thread k, in values. index: channel or filter row.
  static __device__ __forceinline__ int64_t start(int index, int k) {
    const int group = index / kConfig.group(), rest = index % kConfig.group();
    const int unit = group * kConfig.units + rest % kConfig.units;
    return (int64_t(unit) * (kConfig.block / 2) + k * (R / 2)) * (4 * kConfig.channels) +
           rest / kConfig.units * 4;
  }
  // pair q of the thread: slots 2q and 2q + 1
  static __device__ constexpr int offset(int q) {
    return (q / (R / 2) * W * (R / 2) + q % (R / 2)) * 4 * kConfig.channels;
  }
};

__device__ __forceinline__ void multiply_add_pair(const float4& x, const float4& h, Complex* sum) {
  sum[0] = multiply_add({x.x, x.y}, {h.x, h.y}, sum[0]);
  sum[1] = multiply_add({x.z, x.w}, {h.z, h.w}, sum[1]);
}

// As multiply_spectra, of interleaved units.
template <class Config>
__device__ __forceinline__ void multiply_pairs(Complex* v, const Spectra& a, int64_t lanes,
                                               int64_t filter_lanes) {
  constexpr int T = Config::value.block, kBatch = Config::value.points > 16 ? 2 : 1;
  const int slots = a.n_spectra - 1;
#pragma unroll
  for (int q = 0; q < Config::value.points / 2; q += kBatch) {
    const float* h = a.h + forget(int64_t(0));
    float* kept = a.kept + forget(int64_t(0));
    Complex sum[2 * kBatch];
#pragma unroll
    for (int p = 0; p < kBatch; ++p) {
      const float4 f = *reinterpret_cast<const float4*>(h + Pairs<Config>::offset(q + p));
      const Complex* x = v + 2 * (q + p);
      sum[2 * p] = multiply_add(x[0], {f.x, f.y}, {0.f, 0.f});
      sum[2 * p + 1] = multiply_add(x[1], {f.z, f.w}, {0.f, 0.f});
    }
    int slot = a.newest;
#pragma unroll 1
    for (int i = 2; i <= a.blocks; ++i) {
      h += T * 2 * filter_lanes;
      slot = slot ? slot - 1 : slots - 1;
      const float* old = kept + slot * (T * 2 * lanes);
      float4 x[kBatch], f[kBatch];
#pragma unroll
      for (int p = 0; p < kBatch; ++p) {
        x[p] = *reinterpret_cast<const float4*>(old + Pairs<Config>::offset(q + p));
        f[p] = *reinterpret_cast<const float4*>(h + Pairs<Config>::offset(q + p));
      }
#pragma unroll
      for (int p = 0; p < kBatch; ++p) multiply_add_pair(x[p], f[p], sum + 2 * p);
    }
    // after the loop: the slot may have held X_{i-K}
    if (a.keep) {
      float* out = kept + a.newest * (T * 2 * lanes);
#pragma unroll
      for (int p = 0; p < kBatch; ++p) {
        const Complex* x = v + 2 * (q + p);
        *reinterpret_cast<float4*>(out + Pairs<Config>::offset(q + p)) =
            make_float4(x[0].re, x[0].im, x[1].re, x[1].im);
      }
    }
#pragma unroll
    for (int p = 0; p < 2 * kBatch; ++p) v[2 * q + p] = sum[p];
  }
}

// Neighbouring channels of one slot of a ring, read and written at once.
template <int N>
struct alignas(4 * N) Wide {
  float of[N];
};

// Imaginary parts of the untwisted coefficients, in slot order; the real parts are left over.
template <int P>
__device__ __forceinline__ void untwist(Complex* v, Complex twist) {
  static_for<P>([&](auto index) {
    constexpr int kSlot = decltype(index)::value;
    using Step = Root<-kSlot, 4 * P>;
    const Complex t = multiply(twist, Step::re, Step::im);
    v[kSlot].im = fmaf(t.im, v[kSlot].re, t.re * v[kSlot].im);
  });
}

// Adds the outputs of N units to the pending ones from slot `first` on: the last unit's are the
// imaginary parts of v, the others' wait at `waiting`, `apart` values from slot to slot, and the
// last kHeld slots of the last waiting unit in `held`.
template <int P, int N, int kHeld>
__device__ __forceinline__ void add_outputs(const Complex* v, const float* waiting, int apart,
                                            const float* held, float* out, int64_t step, int count,
                                            int first, int width) {
  constexpr int kBatch = P < 4 ? P : 4;
#pragma unroll
  for (int s = 0; s < P; s += kBatch) {
    Wide<N> pending[kBatch];
#pragma unroll
    for (int q = 0; q < kBatch; ++q) {
      if (first + (s + q) * width < count) {
        pending[q] = *reinterpret_cast<const Wide<N>*>(out + q * step);
      }
    }
#pragma unroll
    for (int q = 0; q < kBatch; ++q) {
      if (first + (s + q) * width < count) {
#pragma unroll
        for (int u = 0; u + 1 < N; ++u) {
          const int slot = u * P + s + q - ((N - 1) * P - kHeld);
          pending[q].of[u] += slot < 0 ? waiting[(u * P + s + q) * apart] : held[slot];
        }
        pending[q].of[N - 1] += v[s + q].im;
        *reinterpret_cast<Wide<N>*>(out + q * step) = pending[q];
      }
    }
    out += kBatch * step;
  }
}

__device__ __forceinline__ void swap_outputs(Complex& v, float& waiting) {
  v.re = waiting;
  waiting = v.im;
}

template <class Config>
__global__ __launch_bounds__(Config::value.threads(), Config::value.min_blocks) void future_fill(
    float* ring, float* kept, const float* spectra, const int64_t* positions, const int64_t* rows,
    const FillShape a) {
  constexpr FillConfig kConfig = Config::value;
  constexpr int T = kConfig.block, P = kConfig.points, W = kConfig.width(), C = kConfig.channels;
  constexpr int R2 = kConfig.middle, R3 = kConfig.last;
  constexpr int U = kConfig.units, N = kConfig.staged;
  extern __shared__ float4 shared[];
  const int thread = threadIdx.x, c = thread % C, k = thread / C;
  const int column = blockIdx.x / (U / N), first_unit = blockIdx.x % (U / N) * N;
  // the lane's channel of the block's first unit
  const auto channel_of = [&]() -> int {
    return a.first_channel + forget(column) * kConfig.group() + c * U + first_unit;
  };
  if (C > 32 && channel_of() >= a.last_channel) return;

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
    const int64_t at = positions[b], p = at / T * T;
    if (p <= 0 || p + a.late >= a.length || at - p >= max(a.late, 1)) return;
    if (Firing(p / T, a).blocks == 0) return;
    const int64_t step = W * a.lanes;
    const float* in =
        ring + blockIdx.z * a.ring_layer + b * a.ring_row + (p - T + k) * a.lanes + channel_of();
#pragma unroll
    for (int s = 0; s < P; ++s, in += step) {
      const Wide<N> u = *reinterpret_cast<const Wide<N>*>(in);
      v[s].re = u.of[0];
#pragma unroll
      for (int unit = 1; unit < N; ++unit) {
        const int place = (unit - 1) * P + s;
        if (place < kInShared) {
          waiting[place * kApart] = u.of[unit];
        } else {
          held[place - kInShared] = u.of[unit];
        }
      }
    }
  }

  const auto multiply = [&](int unit, auto radix, auto stride) {
    const int64_t b = state_row(), p = positions[b] / T * T;
    const int channel = channel_of() + unit;
    const Firing firing(p / T, a);
    Spectra f;
    f.n_spectra = a.n_spectra;
    f.blocks = firing.blocks;
    f.keep = firing.keep && p + T + a.late < a.length;
    f.newest = firing.newest(a.n_spectra);
    const int filter = min(channel, a.channels - 1) / a.channels_per_filter;
    f.h = spectra + blockIdx.z * a.spectra_layer;
    f.kept = kept + blockIdx.z * a.kept_layer + b * a.kept_row;
    if constexpr (U > 1) {
      f.h += Pairs<Config>::start(filter, k);
      f.kept += Pairs<Config>::start(channel, k);
      multiply_pairs<Config>(v, f, a.lanes, a.filter_lanes);
    } else {
      f.h += k * R3 * (2 * a.filter_lanes) + filter;
      f.kept += k * R3 * (2 * a.lanes) + channel;
      multiply_spectra<P, radix, stride, T>(v, f, a.lanes, a.filter_lanes);
    }
  };
  const auto add = [&]() {
    const int64_t b = state_row(), p = positions[b] / T * T + a.late;
    float* out =
        ring + blockIdx.z * a.ring_layer + b * a.ring_row + (p + k) * a.lanes + channel_of();
    const int count = min(int64_t(T), a.length - p);
    add_outputs<P, N, kHeld>(v, waiting, kApart, held, out, W * forget(a.lanes), count, k, W);
  };

  if constexpr (kConfig.single()) {
    forward_root<P>(v);
    multiply(0, std::integral_constant<int, P>{}, std::integral_constant<int, 0>{});
    inverse_first<P>(v);
    untwist<P>(v, {1.f, 0.f});
    add();
  } else {
    using Table = Twiddles<Config>;
    constexpr auto kFirst = Arrangement::kFirst, kMiddle = Arrangement::kMiddle,
                   kLast = Arrangement::kLast;
    Table::fill(values, thread);
    const ComplexTable table{values, kConfig.twiddles()};
    const Exchange<Config> exchange{reinterpret_cast<char*>(shared), c, k};

    const auto convolve = [&](int unit) {
      forward_root<P>(v);
      if constexpr (R2 > 1) {
        exchange.template operator()<kFirst, kMiddle>(v);
#pragma unroll
        for (int u = 0; u < P / R2; ++u) {
          twiddled_pass<R2, true>(v + u * R2, table + Table::kForwardMiddle + k / R3 + u * R2, P);
        }
        exchange.template operator()<kMiddle, kLast>(v);
      } else {
        exchange.template operator()<kFirst, kLast>(v);
      }
#pragma unroll
      for (int u = 0; u < P / R3; ++u) {
        twiddled_pass<R3, true>(v + u * R3, table + Table::kForward + k + u * W, T / R3);
      }

      multiply(unit, std::integral_constant<int, R3>{}, std::integral_constant<int, W * R3>{});

#pragma unroll
      for (int u = 0; u < P / R3; ++u) inverse_first<R3>(v + u * R3);
      if constexpr (R2 > 1) {
        exchange.template operator()<kLast, kMiddle>(v);
#pragma unroll
        for (int u = 0; u < P / R2; ++u) {
          twiddled_pass<R2, false>(v + u * R2, table + Table::kInverseMiddle + k % R3, R3);
        }
        exchange.template operator()<kMiddle, kFirst>(v);
      } else {
        exchange.template operator()<kLast, kFirst>(v);
      }
      twiddled_pass<P, false>(v, table + Table::kInverse + k, W);
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
