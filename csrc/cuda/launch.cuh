// A kernel's launch from its shape and arguments (launch_shape.h), and what shapes ask of a device.
#pragma once

#include <tuple>

#include "launch_shape.h"

namespace futurefill::cuda {

// Of the current device.
inline cudaError_t device_memory(Memory& memory) {
  int device, bytes;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  if (error == cudaSuccess) memory = memory_of(bytes);
  return error;
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const LaunchShape& shape,
                   const std::tuple<Arguments...>& arguments, cudaStream_t stream) {
  if (shape.shared > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared);
    if (error != cudaSuccess) return error;
  }
  const dim3 grid(unsigned(shape.grid[0]), unsigned(shape.grid[1]), unsigned(shape.grid[2]));
  std::apply(
      [&](const Arguments&... argument) {
        kernel<<<grid, shape.threads, shape.shared, stream>>>(static_cast<Parameters>(argument)...);
      },
      arguments);
  return cudaGetLastError();
}

}  // namespace futurefill::cuda
