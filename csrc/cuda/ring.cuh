// A ring in 16 or 32 bits, which is known when a kernel runs: all threads of a launch take the same
// branch. Where it holds 16, the slots of the positions that a row is in are float32 and lie in the
// row's open block (state/open_block.py).
#pragma once

#include "io.cuh"

namespace futurefill::cuda {

// What a ring holds, as float; of 16 bits, which ones is known when the kernel runs.
template <class T>
struct Stored {
  static constexpr bool kNarrow = sizeof(T) == 2;
  bool brain;  // of 16 bits: bfloat16, else float16

  __device__ __forceinline__ float wide(T x) const {
    if constexpr (kNarrow) {
      return brain ? __bfloat162float(__ushort_as_bfloat16(x)) : __half2float(__ushort_as_half(x));
    } else {
      return x;
    }
  }
  __device__ __forceinline__ T rounded(float x) const {
    if constexpr (kNarrow) {
      return brain ? __bfloat16_as_ushort(__float2bfloat16_rn(x))
                   : __half_as_ushort(__float2half_rn(x));
    } else {
      return x;
    }
  }
  template <int N>
  __device__ __forceinline__ Values<float, N> load(const T* at) const {
    const auto stored = load_values<N>(at);
    Values<float, N> values;
#pragma unroll
    for (int q = 0; q < N; ++q) values.at[q] = wide(stored.at[q]);
    return values;
  }
  template <int N>
  __device__ __forceinline__ void store(T* at, const Values<float, N>& values) const {
    Values<T, N> stored;
#pragma unroll
    for (int q = 0; q < N; ++q) stored.at[q] = rounded(values.at[q]);
    store_values(at, stored);
  }
};

using Bits16 = unsigned short;

__device__ __forceinline__ Stored<Bits16> stored_in_16(IoType stored) {
  return {stored == IoType::kBFloat16};
}

// f(ring, what it holds)
template <class F>
__device__ __forceinline__ void with_ring(IoType stored, void* ring, const F& f) {
  if (stored == IoType::kFloat32) {
    f(static_cast<float*>(ring), Stored<float>{});
  } else {
    f(static_cast<Bits16*>(ring), stored_in_16(stored));
  }
}

// Of position p, in an open block of `open_slots`.
__device__ __forceinline__ int64_t open_slot(int64_t p, int64_t open_slots) {
  return unsigned(p) % unsigned(open_slots);
}

// Where a fill of `count` slots from p on adds its outputs: f(slots, what they hold, begin, end)
// does those from begin to end - 1; a pointer is at slot p + `from` / lanes, `from` in values. Of a
// ring in 16 bits the first ones are in the row's open block, not rounded.
template <class F>
__device__ __forceinline__ void add_to_slots(const FillShape& a, void* ring, float* open_block,
                                             int64_t layer, int64_t row, int64_t p, int64_t from,
                                             int count, const F& f) {
  const bool narrow = a.stored != IoType::kFloat32;
  const int64_t slot = layer * a.ring_layer + row * a.ring_row + p * a.lanes + from;
  const int64_t open = (layer * a.batch + row) * a.open_slots * a.lanes + from;
  f(narrow ? open_block + open : static_cast<float*>(ring) + slot, Stored<float>{}, 0,
    narrow ? min(a.open_slots, count) : count);
  if (narrow) {
    f(static_cast<Bits16*>(ring) + slot, stored_in_16(a.stored), a.open_slots, count);
  }
}

}  // namespace futurefill::cuda
