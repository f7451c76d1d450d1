// Launches the early future fill.
#include "future_fill.cuh"
#include "launch.cuh"
#include "launch.h"

namespace futurefill::cuda {

cudaError_t launch_early_fill(const FillParams& p, cudaStream_t stream) {
  Memory memory = kSmall;
  if (!any_memory(p.shape)) {
    const cudaError_t error = device_memory(memory);
    if (error != cudaSuccess) return error;
  }
  cudaError_t result = cudaErrorInvalidValue;
  choose_early(p.shape, memory, [&](auto config) {
    using Config = decltype(config);
    result = launch(future_fill<Config>, fill_launch(p, Config::value), fill_arguments(p), stream);
  });
  return result;
}

}  // namespace futurefill::cuda
