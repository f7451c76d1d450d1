// sum_{k=1..min(i, K)} X_{i-k} H_k of a thread's entries, X_{i-1} in registers, which is kept where
// a later firing reads it.
#pragma once

#include "fill_config.h"
#include "transform.cuh"

namespace futurefill::cuda {

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
template <int P, int R, int kStride, class Rows>
__device__ __forceinline__ void multiply_spectra(Complex* v, const Spectra& a, int64_t lanes,
                                                 int64_t filter_lanes, Rows rows) {
  using Read = Entries<R, kStride, const float>;
  using Write = Entries<R, kStride, float>;
  constexpr int kBatch = P < 4 ? P : 4, kSmall = P < 2 ? P : 2;
  const int slots = a.n_spectra - 1;
  // the slot that X_{i-1} takes may still hold X_{i-K}
  const bool replace = slots > 0 && a.blocks == a.n_spectra;
  if (replace) {
    const int64_t g = forget(filter_lanes), l = forget(lanes);
    Read h{a.h, 2 * g, g}, oldest{a.h + slots * (rows * 2 * g), 2 * g, g};
    Write kept{a.kept + a.newest * (rows * 2 * l), 2 * l, l};
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
      Write kept{a.kept + a.newest * (rows * 2 * l), 2 * l, l};
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
    Read h{a.h + (k - 1) * (rows * 2 * g), 2 * g, g},
        kept{a.kept + slot * (rows * 2 * l), 2 * l, l};
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

// Asks for a thread's filter spectra: one lane for each line of 128 bytes.
template <class Config>
__device__ __forceinline__ void prefetch_pairs(const float* h, int lane) {
  if (lane % 8 != 0) return;
#pragma unroll
  for (int q = 0; q < Config::value.points / 2; ++q) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(h + Pairs<Config>::offset(q)));
  }
}

// As multiply_spectra, of interleaved units.
template <class Config>
__device__ __forceinline__ void multiply_pairs(Complex* v, const Spectra& a, int64_t lanes,
                                               int64_t filter_lanes) {
  constexpr int T = Config::value.block, P = Config::value.points;
  constexpr int kBatch = Config::early || P > 16 ? 2 : 1;
  const int slots = a.n_spectra - 1;
#pragma unroll
  for (int q = 0; q < P / 2; q += kBatch) {
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

}  // namespace futurefill::cuda
