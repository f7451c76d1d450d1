// Values of 16 or 32 bits as float, and neighbouring ones in one access.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "params.h"

namespace futurefill::cuda {

template <IoType kIo>
using IoOf =
    std::conditional_t<kIo == IoType::kFloat32, float,
                       std::conditional_t<kIo == IoType::kBFloat16, __nv_bfloat16, __half>>;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <class Io>
__device__ __forceinline__ Io from_float(float x) {
  if constexpr (sizeof(Io) == 4) {
    return x;
  } else if constexpr (std::is_same_v<Io, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

// Neighbouring channels in one access.
template <class T, int N>
struct alignas(N * sizeof(T)) Values {
  T at[N];
};

template <int N, class T>
__device__ __forceinline__ Values<T, N> load_values(const T* at) {
  return *reinterpret_cast<const Values<T, N>*>(at);
}

template <class T, int N>
__device__ __forceinline__ void store_values(T* at, const Values<T, N>& values) {
  *reinterpret_cast<Values<T, N>*>(at) = values;
}

}  // namespace futurefill::cuda
