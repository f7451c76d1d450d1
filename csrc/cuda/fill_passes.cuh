// The passes of a transform that a thread block shares, and the exchanges between them.
#pragma once

#include "exchange.cuh"
#include "fill_config.h"
#include "transform.cuh"
#include "twiddles.cuh"

namespace futurefill::cuda {

// The passes of a transform behind the first one and before the last, between exchanges.
template <class Config, int kQuarters = 1>
struct Passes {
  static constexpr FillConfig kConfig = Config::value;
  static constexpr int P = kConfig.points, W = kConfig.width(), T = kConfig.block;
  static constexpr int R2 = kConfig.middle, R3 = kConfig.last;
  using Table = Twiddles<Config, kQuarters>;

  ComplexTable table;
  Exchange<Config> exchange;
  int k;

  // From the first pass's residues, in kFirst, to values at the roots, in kLast.
  __device__ __forceinline__ void forward(Complex* v) const {
    constexpr auto kFirst = Arrangement::kFirst, kMiddle = Arrangement::kMiddle,
                   kLast = Arrangement::kLast;
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
  }

  // From values in kLast to coefficients in kFirst, twisted for kQuarters = 1.
  __device__ __forceinline__ void inverse(Complex* v) const {
    constexpr auto kFirst = Arrangement::kFirst, kMiddle = Arrangement::kMiddle,
                   kLast = Arrangement::kLast;
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
  }
};

}  // namespace futurefill::cuda
