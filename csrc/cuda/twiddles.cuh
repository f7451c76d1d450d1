// Twiddle factors of the passes behind the first: tables made when the kernels are compiled,
// rounded once from float64, of which every thread block copies its own into shared memory. The
// copy needs no registers and is waited for where the inputs have come, which were asked for after
// it.
#pragma once

#include <cuda_pipeline_primitives.h>

#include "fill_config.h"
#include "transform.cuh"

namespace futurefill::cuda {

// Where the passes' entries begin, each [stored level][node or position].
template <int T, int P, int R2, int R3>
struct TwiddleOffsets {
  static constexpr int W = T / P;
  static constexpr int kForward = 0;  // last pass, T / R3 nodes
  static constexpr int kInverse =
      kForward + stored_levels(R3) * (T / R3);  // first pass, W positions
  static constexpr int kTwist = kInverse + stored_levels(P) * W;
  static constexpr int kForwardMiddle = kTwist + W;  // P nodes
  static constexpr int kInverseMiddle =
      kForwardMiddle + (R2 > 1 ? stored_levels(R2) * P : 0);  // R3 positions
  static constexpr int kSize = kInverseMiddle + (R2 > 1 ? stored_levels(R2) * R3 : 0);
};

template <int kSize>
struct alignas(16) TwiddleValues {
  float re[kSize], im[kSize];
};

// An entry of a level of a node, counted in tree order among `nodes`.
constexpr ConstantRoot node_root(int entry, int nodes, int quarters) {
  const int stored = entry / nodes, node = entry % nodes;
  return constant_root(4 * bit_reverse(log2_of(nodes), node) + quarters,
                       8 * (nodes << (stored + 1)));
}

constexpr ConstantRoot position_root(int entry, int positions) {
  const int stored = entry / positions, position = entry % positions;
  return constant_root(-position, 2 * (positions << (stored + 1)));
}

template <int T, int P, int R2, int R3, int kQuarters>
constexpr auto make_twiddles() {
  using At = TwiddleOffsets<T, P, R2, R3>;
  TwiddleValues<At::kSize> values{};
  for (int e = 0; e < At::kSize; ++e) {
    ConstantRoot root{};
    if (e < At::kInverse) {
      root = node_root(e - At::kForward, T / R3, kQuarters);
    } else if (e < At::kTwist) {
      root = position_root(e - At::kInverse, At::W);
    } else if (e < At::kForwardMiddle) {
      root = constant_root(-(e - At::kTwist), 4 * T);
    } else if (e < At::kInverseMiddle) {
      root = node_root(e - At::kForwardMiddle, P, kQuarters);
    } else {
      root = position_root(e - At::kInverseMiddle, R3);
    }
    values.re[e] = float(root.re);
    values.im[e] = float(root.im);
  }
  return values;
}

// One for all kernels of a file whose transforms are done alike.
template <int T, int P, int R2, int R3, int kQuarters>
static __device__ constexpr auto twiddle_values = make_twiddles<T, P, R2, R3, kQuarters>();

// Of a transform modulo x^T - e^(kQuarters i pi / 2).
template <class Config, int kQuarters>
struct Twiddles : TwiddleOffsets<Config::value.block, Config::value.points, Config::value.middle,
                                 Config::value.last> {
  static constexpr FillConfig kConfig = Config::value;
  static constexpr int kBytes = 8 * kConfig.twiddles(), kPiece = 16;
  static_assert(kBytes == 8 * Twiddles::kSize && kBytes % kPiece == 0 &&
                kConfig.exchange_bytes() % kPiece == 0);

  // Asks for the thread's part of the thread block's copy.
  static __device__ __forceinline__ void request(float* copy, int thread) {
    const auto& values =
        twiddle_values<kConfig.block, kConfig.points, kConfig.middle, kConfig.last, kQuarters>;
#pragma unroll
    for (int e = 0; e < kBytes / kPiece; e += kConfig.threads()) {
      const int at = (e + thread) * kPiece;
      if (at < kBytes) {
        __pipeline_memcpy_async(reinterpret_cast<char*>(copy) + at,
                                reinterpret_cast<const char*>(&values) + at, kPiece);
      }
    }
    __pipeline_commit();
  }

  // Behind it and a barrier all threads may read the copy.
  static __device__ __forceinline__ void wait() { __pipeline_wait_prior(0); }
};

}  // namespace futurefill::cuda
