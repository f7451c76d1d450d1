// Transposition of a block's values between threads, through shared memory without bank conflicts.
//
// Before and after every pass the T values of a channel lie in one of three arrangements: thread k
// of W holds in slot s the element
//   kFirst   s W + k                            (node s, position k)
//   kMiddle  (k / R3 + R2 u) W + k % R3 + R3 r  with s = u R2 + r
//   kLast    (k + W u) R3 + r                   with s = u R3 + r
// An exchange overwrites only what its own thread read last, so it needs one barrier. Where real
// and imaginary parts take turns in half the memory it needs two, or three if the radices differ,
// and twice as many where the slots take turns, too; none of the whole block inside a warp.
#pragma once

#include "fill_config.h"
#include "transform.cuh"

namespace futurefill::cuda {

enum class Arrangement { kFirst, kMiddle, kLast };

template <class Config>
struct Exchange {
  static constexpr FillConfig kConfig = Config::value;
  static constexpr int P = kConfig.points, W = kConfig.width(), C = kConfig.channels;
  static constexpr int R2 = kConfig.middle, R3 = kConfig.last;

  char* shared;
  int c, k;

  // The row of slot s: a base that depends on the thread plus a constant.
  template <Arrangement kAt>
  __device__ __forceinline__ int row_base() const {
    if constexpr (kAt == Arrangement::kFirst) return k + k / R3;
    if constexpr (kAt == Arrangement::kMiddle) return (k / R3) * (W + W / R3) + k % R3;
    return k * (R3 + 1);
  }
  template <Arrangement kAt>
  static __device__ constexpr int row_offset(int s) {
    if (kAt == Arrangement::kFirst) return s * (W + W / R3);
    if (kAt == Arrangement::kMiddle) return s / R2 * R2 * (W + W / R3) + s % R2 * (R3 + 1);
    return s / R3 * W * (R3 + 1) + s % R3;
  }

  template <Arrangement kFrom, Arrangement kTo>
  __device__ __forceinline__ void whole(Complex* v) const {
    float2* out = reinterpret_cast<float2*>(shared) + row_base<kFrom>() * C + c;
    const float2* in = reinterpret_cast<const float2*>(shared) + row_base<kTo>() * C + c;
#pragma unroll
    for (int s = 0; s < P; ++s) out[row_offset<kFrom>(s) * C] = make_float2(v[s].re, v[s].im);
    __syncthreads();
#pragma unroll
    for (int s = 0; s < P; ++s) {
      const float2 z = in[row_offset<kTo>(s) * C];
      v[s] = {z.x, z.y};
    }
  }

  // Threads and slots swap one index each, an involution: what thread k reads for slot s lies where
  // it may put its own slot s. kLastSwap: the index is k % R3, and the threads that swap may all be
  // of one warp.
  template <bool kLastSwap>
  __device__ __forceinline__ void halves(Complex* v) const {
    constexpr int S = R2 > 1 ? R2 : W;  // slots that swap
    constexpr int kAtOnce = kConfig.exchanged();
    static_assert(kConfig.swaps() && kAtOnce % S == 0 && P % kAtOnce == 0);
    constexpr bool kOneWarp = kLastSwap && R2 > 1 && 32 % (R3 * C) == 0;
    float* column = reinterpret_cast<float*>(shared) + k * C + c;
    float* partner = reinterpret_cast<float*>(shared) + c;
    int step = 1;
    if constexpr (R2 == 1) {
      partner += k * (W + 1) * C;
    } else if constexpr (kLastSwap) {
      partner += ((k % R3) * (W + 1) + k / R3 * R3) * C;
    } else {
      partner += ((k / R3) * (W + 1) + k % R3) * C;
      step = R3;
    }
    const auto own = [&](int s) { return column + s * (W + 1) * C; };
    const auto other = [&](int s) { return partner + (s / S * S * (W + 1) + s % S * step) * C; };
    const auto synchronize = [] {
      if constexpr (kOneWarp) {
        __syncwarp();
      } else {
        __syncthreads();
      }
    };
#pragma unroll
    for (int first = 0; first < P; first += kAtOnce) {
      Complex* z = v + first;
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) *own(s) = z[s].re;
      synchronize();
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) z[s].re = *other(s);
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) *other(s) = z[s].im;
      synchronize();
#pragma unroll
      for (int s = 0; s < kAtOnce; ++s) z[s].im = *own(s);
    }
  }

  template <Arrangement kFrom, Arrangement kTo>
  __device__ __forceinline__ void thirds(Complex* v) const {
    float* out = reinterpret_cast<float*>(shared) + row_base<kFrom>() * C + c;
    const float* in = reinterpret_cast<const float*>(shared) + row_base<kTo>() * C + c;
#pragma unroll
    for (int s = 0; s < P; ++s) out[row_offset<kFrom>(s) * C] = v[s].re;
    __syncthreads();
#pragma unroll
    for (int s = 0; s < P; ++s) v[s].re = in[row_offset<kTo>(s) * C];
    __syncthreads();
#pragma unroll
    for (int s = 0; s < P; ++s) out[row_offset<kFrom>(s) * C] = v[s].im;
    __syncthreads();
#pragma unroll
    for (int s = 0; s < P; ++s) v[s].im = in[row_offset<kTo>(s) * C];
  }

  template <Arrangement kFrom, Arrangement kTo>
  __device__ __forceinline__ void operator()(Complex* v) const {
    if constexpr (kConfig.split && !kConfig.swaps()) {
      thirds<kFrom, kTo>(v);
    } else if constexpr (kConfig.split) {
      halves<kFrom == Arrangement::kLast || kTo == Arrangement::kLast>(v);
    } else {
      whole<kFrom, kTo>(v);
    }
  }
};

}  // namespace futurefill::cuda
