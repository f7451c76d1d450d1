// The passes of a transform that a thread block shares: twiddle tables, passes, exchanges.
#pragma once

#include "exchange.cuh"
#include "fill_config.h"
#include "transform.cuh"

namespace futurefill::cuda {

// Twiddle tables of the passes behind the first, each [stored level][node or position]. The
// transform is modulo x^T - e^(kQuarters i pi / 2).
template <class Config, int kQuarters>
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
    return (reversed + 0.25f * kQuarters) / (nodes << (stored + 1));
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
